"""Entropy of attention: values known in advance, and what a run records of its ViT."""

import math

import pytest
import torch

from mmssl.engine.quality_hook import FeatureQualityHook
from mmssl.evaluation.quality import attention_entropy
from mmssl.registry import MODELS
from mmssl.visualization.attention import class_attention

SIZES = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


def test_known_entropies():
    assert attention_entropy(torch.full((2, 3, 4, 5), 0.01)) == pytest.approx(1)
    assert attention_entropy(torch.eye(6).view(1, 6, 2, 3)) == 0
    halves = torch.tensor([0.5, 0.5, 0.0, 0.0]).view(1, 1, 4)
    assert attention_entropy(halves) == pytest.approx(math.log(2) / math.log(4))
    # mean of the heads, not the entropy of the mean
    heads = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 2)
    assert attention_entropy(heads) == 0
    with pytest.raises(ValueError, match='over 1 patch'):
        attention_entropy(torch.ones(1, 2, 1, 1))


def test_the_hook_measures_the_evaluated_network():
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmssl.MAE',
            backbone=dict(type='mmssl.MAEViT', arch=SIZES, img_size=32, patch_size=8),
            neck=dict(
                type='mmssl.MAEDecoder',
                num_patches=16,
                patch_size=8,
                embed_dim=16,
                decoder_embed_dim=16,
                decoder_depth=1,
                decoder_num_heads=2,
            ),
            head=dict(type='mmssl.MAEHead', norm_pix=True, patch_size=8),
            data_preprocessor=dict(
                type='mmpretrain.SelfSupDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True
            ),
        )
    ).train()
    hook = FeatureQualityHook()
    hook._batch = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    value = hook._attention_entropy(model)
    images = (hook._batch.flip(1).float() - 120) / 60
    weights = class_attention(model.backbone, images).double().flatten(2)
    weights = weights / weights.sum(2, keepdim=True)
    expected = -(weights * weights.log()).sum(2).mean() / math.log(16)
    assert value == pytest.approx(float(expected), rel=1e-6) and 0.5 < value <= 1
    assert model.training
