"""Parts of segment_anything, and parts with nothing but its signatures, inside of our model."""

import numpy as np
import pytest
import torch
from torch import nn

from mmssl.promptable import SAM, InteractiveSAM, SamAutomaticMaskGenerator, SamPredictor, build_sam
from mmssl.promptable.protocols import batches_images
from mmssl.promptable.several_images import decode_by_index

SIZE = 96
ENCODER = dict(
    img_size=SIZE, embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,), window_size=4, out_chans=32
)
SIZES = dict(
    image_encoder=ENCODER,
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)
SHAPE = (70, 110)


def image():
    rows, columns = np.meshgrid(np.linspace(0, 6, SHAPE[0]), np.linspace(0, 9, SHAPE[1]), indexing='ij')
    waves = [np.sin(rows * a) + np.cos(columns * b) for a, b in ((1, 2), (0.5, 1), (2, 0.7))]
    return ((np.stack(waves, -1) + 2) * 63.75).astype(np.uint8)


@pytest.fixture(scope='module')
def models(official_sam):
    """Our model, and one with the prompt encoder and the mask decoder of the package, of the same weights."""
    theirs, ours = official_sam(ENCODER, confident=True), build_sam(SIZES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    mixed = SAM(ours.image_encoder, theirs.prompt_encoder, theirs.mask_decoder).eval()
    return ours, mixed, theirs


def decoded(models, **prompts):
    results = []
    for model in models:
        predictor = SamPredictor(model)
        predictor.set_image(image())
        results.append(predictor.predict(**prompts))
    return results


@pytest.mark.parametrize(
    'prompts',
    [
        dict(point_coords=np.array([[20, 30], [90, 11]]), point_labels=np.array([1, 0])),
        dict(box=np.array([5, 8, 100, 60.5])),
        dict(box=np.array([5, 8, 100, 60.5]), mask_input=np.ones((1, 24, 24), np.float32)),
    ],
    ids=['points', 'box', 'box and mask'],
)
def test_the_predictor_takes_official_parts_and_the_official_model(models, prompts):
    ours, mixed, theirs = decoded(models, **prompts)
    for other in (mixed, theirs):
        assert np.array_equal(ours[0], other[0])
        np.testing.assert_allclose(ours[1], other[1], atol=1e-5)
        np.testing.assert_allclose(ours[2], other[2], atol=1e-4)


def test_automatic_masks_take_official_parts(models):
    records = [
        SamAutomaticMaskGenerator(
            model, 6, pred_iou_thresh=0.5, stability_score_thresh=0.5, stability_score_offset=0.01
        ).generate(image())
        for model in models[:2]
    ]
    assert len(records[0]) == len(records[1]) > 1
    for ours, mixed in zip(*records, strict=True):
        assert ours['bbox'] == mixed['bbox'] and ours['point_coords'] == mixed['point_coords']
        assert (ours['segmentation'] != mixed['segmentation']).sum() <= 2


def test_several_images_take_official_parts(models):
    ours, mixed, _ = models
    torch.manual_seed(0)
    embeddings = torch.randn(2, 32, 6, 6)
    points = [torch.rand(count, 2) * 60 for count in (1, 3, 2)]
    labels = [torch.ones(len(coords)) for coords in points]
    prompts = [
        dict(point_coords=points, point_labels=labels),
        dict(boxes=torch.tensor([[3.0, 4.0, 50.0, 40.0]])),
    ]
    with torch.no_grad():
        results = [model.decode(embeddings, prompts, True) for model in (ours, mixed)]
        index, sparse = torch.tensor([1, 0, 1]), torch.randn(3, 2, 32)
        dense = ours.prompt_encoder.no_mask(1)
        pe = ours.prompt_encoder.get_dense_pe()
        by_index = [
            decode_by_index(model.mask_decoder, embeddings, pe, sparse, dense, False, index)
            for model in (ours, mixed)
        ]
    assert batches_images(ours.mask_decoder) and not batches_images(mixed.mask_decoder)
    for mine, other in zip((*results[0], by_index[0]), (*results[1], by_index[1]), strict=True):
        for item, expected in zip(mine, other, strict=True):
            torch.testing.assert_close(item, expected, atol=1e-4, rtol=1e-4)


def test_interactive_training_takes_official_parts(models):
    from mmengine.structures import BaseDataElement, InstanceData

    model = InteractiveSAM(models[1], rounds=2, silent_rounds=0).train()
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[0, 10:40, 20:60] = True
    samples = [BaseDataElement(metainfo=dict(img_shape=(64, 96), img_path='x.jpg')) for _ in range(2)]
    for sample in samples:
        sample.gt_instances = InstanceData(masks=mask)
    losses = model.loss(torch.randn(2, 3, 64, 96), samples)
    losses['loss_iou'].backward()
    assert model.mask_decoder.iou_token.weight.grad.abs().sum() > 0
    model.zero_grad()


class Squares(nn.Module):
    """A mask decoder with the official signature alone: a square at every prompt."""

    transformer_dim = 32

    def forward(
        self,
        image_embeddings,
        image_pe,
        sparse_prompt_embeddings,
        dense_prompt_embeddings,
        multimask_output,
    ):
        assert image_embeddings.shape[0] == image_pe.shape[0] == dense_prompt_embeddings.shape[0] == 1
        count = len(sparse_prompt_embeddings)
        logits = torch.full((count, 3 if multimask_output else 1, 24, 24), -5.0)
        for index in range(count):
            logits[index, :, 2 + index : 8 + index, 3:9] = 5.0
        return logits, torch.full(logits.shape[:2], 0.9)


def test_a_decoder_of_ones_own():
    model = SAM(build_sam(SIZES).image_encoder, mask_decoder=Squares())
    predictor = SamPredictor(model)
    predictor.set_image(image())
    masks, ious, _ = predictor.predict(box=np.array([5, 8, 100, 60.5]), multimask_output=False)
    assert masks.shape == (1, *SHAPE) and masks.any() and ious.tolist() == [pytest.approx(0.9)]
    records = SamAutomaticMaskGenerator(model, 3, stability_score_thresh=0.0).generate(image())
    assert len(records) > 3
