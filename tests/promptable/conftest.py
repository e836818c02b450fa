"""The package's own model, small, for what is compared with it."""

from functools import partial

import pytest
import torch


@pytest.fixture(scope='session')
def official_sam():
    """A function that builds the official model with random weights; skips if the package is missing."""
    official = pytest.importorskip('segment_anything.modeling')

    def make(encoder, confident=False):
        size = encoder['img_size']
        torch.manual_seed(0)
        sam = official.Sam(
            official.ImageEncoderViT(
                **encoder,
                mlp_ratio=4,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                qkv_bias=True,
                use_rel_pos=True,
            ),
            official.PromptEncoder(
                embed_dim=32,
                image_embedding_size=(size // 16, size // 16),
                input_image_size=(size, size),
                mask_in_chans=16,
            ),
            official.MaskDecoder(
                transformer_dim=32,
                iou_head_hidden_dim=32,
                transformer=official.TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=64),
            ),
        ).eval()
        with torch.no_grad():
            for name, parameter in sam.named_parameters():
                if 'rel_pos' in name or name.endswith('pos_embed'):
                    parameter.normal_(std=0.5)
                elif 'hypernetworks' in name or 'upscaling' in name:
                    parameter.mul_(3)
                elif confident and 'iou_prediction_head.layers.2.bias' in name:
                    parameter.fill_(4)
                elif confident and ('iou_prediction_head' in name or 'attn' in name):
                    parameter.mul_(2)
        return sam

    return make
