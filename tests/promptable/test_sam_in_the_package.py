"""A SAM trained here in the classes of ``segment_anything``: its file loads, its masks are the same."""

from functools import partial

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData

from mmssl.promptable import SamPredictor
from mmssl.promptable.training import InteractiveSAM

SIDE = 64
ENCODERS = {
    'vit': dict(
        type='mmssl.SAMImageEncoder',
        img_size=SIDE,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=32,
        window_size=3,
        global_attn_indexes=(1,),
    ),
    'backbone': dict(
        type='mmssl.SAMBackbone',
        backbone=dict(type='mmpretrain.MobileNetV2', widen_factor=0.25, out_indices=(4, 6), norm_eval=True),
        in_channels=(24, 80),
        out_chans=32,
        img_size=SIDE,
        stride=16,
    ),
}


def trained(encoder):
    """A model after three steps on a disc and a square, in evaluation mode."""
    torch.manual_seed(0)
    decoder = dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32)
    model = InteractiveSAM(
        dict(type='mmssl.SAM', image_encoder=encoder, mask_decoder=decoder), rounds=2, silent_rounds=0
    )
    model.init_weights()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing='ij')
    masks = torch.stack(((rows - 20) ** 2 + (columns - 24) ** 2 < 150, (rows > 36) & (columns > 30)))
    sample = BaseDataElement(
        gt_instances=InstanceData(masks=masks), metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE))
    )
    for _ in range(3):
        losses = model(torch.randn(1, 3, SIDE, SIDE), [sample.clone()], mode='loss')
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        optimizer.step()
    return model.eval()


def of_the_package(model, encoder):
    """The package's model at the sizes of ours; an image encoder that it does not have is ours."""
    parts = pytest.importorskip('segment_anything.modeling')
    if encoder['type'] == 'mmssl.SAMImageEncoder':
        sizes = {name: value for name, value in encoder.items() if name != 'type'}
        image_encoder = parts.ImageEncoderViT(
            **sizes, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True
        )
    else:
        torch.manual_seed(1)
        image_encoder = InteractiveSAM(
            Config(
                dict(
                    model=dict(
                        type='mmssl.SAM',
                        image_encoder=encoder,
                        mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64)),
                    )
                )
            ).model
        ).image_encoder
    transformer = parts.TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=64)
    grid = (SIDE // 16, SIDE // 16)
    return parts.Sam(
        image_encoder,
        parts.PromptEncoder(32, grid, (SIDE, SIDE), 16),
        parts.MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=32),
    ).eval()


@pytest.mark.parametrize('kind', ENCODERS)
def test_a_trained_file_loads_strictly_and_gives_the_same_masks(kind, tmp_path):
    package = pytest.importorskip('segment_anything')
    model = trained(ENCODERS[kind])
    torch.save(model.export_state_dict(), tmp_path / 'sam.pth')
    theirs = of_the_package(model, ENCODERS[kind])
    theirs.load_state_dict(torch.load(tmp_path / 'sam.pth', weights_only=True), strict=True)
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    predictors = SamPredictor(model), package.SamPredictor(theirs)
    prompts = [
        dict(point_coords=np.array([[30.0, 20.0]]), point_labels=np.array([1])),
        dict(box=np.array([10.0, 8.0, 60.0, 40.0])),
        dict(
            point_coords=np.array([[30.0, 20.0], [5.0, 40.0]]),
            point_labels=np.array([1, 0]),
            multimask_output=False,
        ),
    ]
    for predictor in predictors:
        predictor.set_image(image)
    shares = []
    for prompt in prompts:
        mine, their = (predictor.predict(**prompt) for predictor in predictors)
        assert mine[0].shape[1:] == (50, 80) and np.array_equal(mine[0], their[0])
        np.testing.assert_allclose(mine[1], their[1], atol=1e-5)
        np.testing.assert_allclose(mine[2], their[2], atol=1e-4)
        shares.append(mine[0].mean())
    assert any(0 < fraction < 1 for fraction in shares)
