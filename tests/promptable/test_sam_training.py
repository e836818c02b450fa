"""Interactive training: rounds, freezing, low-rank updates, the cache; evaluation by simulated clicks."""

import copy
import itertools

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from mmssl.promptable import build_sam
from mmssl.promptable.simulation import ClickSimulation, contour, to_file_size
from mmssl.promptable.targets import draw_targets
from mmssl.promptable.training import InteractiveSAM, reduce_masks

SIZES = dict(
    image_encoder=dict(
        img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32, window_size=3, global_attn_indexes=(1,)
    ),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)


def make(**settings):
    torch.manual_seed(0)
    return InteractiveSAM(
        build_sam(copy.deepcopy(SIZES)), **{**dict(rounds=4, silent_rounds=1, max_masks=4), **settings}
    ).train()


def disc(x, y, radius, height=64, width=64):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def sample(*masks, height=64, width=64, **facts):
    made = BaseDataElement(metainfo=dict(img_shape=(height, width), img_path='x.jpg', **facts))
    made.gt_instances = InstanceData(
        masks=torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
    )
    return made


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    return images, [sample(disc(20, 20, 12), disc(44, 40, 9)), sample(disc(30, 34, 15))]


def total(losses):
    return sum(value for name, value in losses.items() if 'loss' in name)


def test_the_same_generator_gives_the_same_losses_and_rounds_follow_the_recipe():
    model = make(rounds=11, silent_rounds=2)
    calls = []
    model.prompt_encoder.register_forward_pre_hook(
        lambda module, inputs, kwargs: calls.append((kwargs['points'], kwargs['boxes'], kwargs['masks'])),
        with_kwargs=True,
    )
    with torch.no_grad():
        losses = [model.loss(*batch(), generator=torch.Generator().manual_seed(seed)) for seed in (3, 3)]
    assert losses[0] == losses[1] and bool(torch.isfinite(total(losses[0])))
    calls = calls[: len(calls) // 2]
    counts = {'box': [], 'point': []}
    for points, boxes, masks in calls:
        counts['point' if boxes is None else 'box'].append(
            (0 if points is None else points[0].shape[1], masks is not None)
        )
    for kind, recorded in counts.items():
        if recorded:
            assert (
                len(recorded) == 11
                and recorded[0] == ((kind == 'point'), False)
                and all(mask for _, mask in recorded[1:])
            )
            clicks = [count for count, _ in recorded]
            steps = [after - before for before, after in itertools.pairwise(clicks)]
            assert sum(steps) == 8 and steps[-1] == 0 and steps.count(0) == 2


def test_kinds_of_first_prompts_and_three_masks():
    model = make(rounds=1, silent_rounds=0, box_prob=0.0, ambiguous=('point',))
    request = []
    decoder = model.mask_decoder.forward
    model.mask_decoder.forward = lambda *args, **kwargs: (
        request.append((args[2].shape[1], args[4])) or decoder(*args, **kwargs)
    )
    model.loss(*batch())
    model.box_prob = 1.0
    model.loss(*batch())
    model.ambiguous = ('box',)
    model.loss(*batch())
    assert request == [(2, True), (2, False), (2, True)]  # a point and its padding, two corners


def test_a_step_lowers_the_loss_and_reaches_every_part():
    model = make(box_prob=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    values = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = total(model.loss(*batch(), generator=torch.Generator().manual_seed(0)))
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert min(values[3:]) < values[0]
    for part in (model.image_encoder, model.prompt_encoder, model.mask_decoder):
        assert any(
            parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters()
        )


def test_computing_rounds_again_changes_nothing():
    gradients = []
    for again in (False, True):
        model = make(checkpoint_rounds=again)
        total(model.loss(*batch(), generator=torch.Generator().manual_seed(1))).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.allclose(single, other, atol=1e-6) for single, other in zip(*gradients, strict=True))


def test_images_without_masks_and_too_many():
    model = make(max_masks=1)
    losses = model.loss(batch()[0], [sample(), sample()])
    total(losses).backward()
    assert total(losses).item() == 0 and all(
        parameter.grad is None or not parameter.grad.any() for parameter in model.parameters()
    )
    targets = draw_targets(
        [sample(disc(9, 9, 5, 40), disc(30, 9, 5, 40), height=40), sample()], 64, 1, 1.0, torch.device('cpu')
    )
    assert targets.masks.shape == (1, 64, 64) and targets.num_boxes == 1
    assert targets.image_index.tolist() == [0]
    assert targets.valid.flatten(1).sum(1).tolist() == [40 * 64, 64 * 64]
    other = sample(disc(5, 5, 2, 9, 9))
    with pytest.raises(
        ValueError, match='x.jpg: masks of 9x9 for an image of 64x64; put LoadMasks before ResizeLongest'
    ):
        model.loss(batch()[0], [other, other])


def test_small_masks_do_not_vanish():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 0, 0] = True
    masks[1, :3, :4] = True
    reduced = reduce_masks(masks, 4)
    assert reduced[0].nonzero().tolist() == [[0, 0]] and reduced[1].nonzero().tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    ]
    assert torch.equal(reduce_masks(masks, 8), masks)


def test_decoder_alone_learns_from_cached_embeddings(tmp_path):
    model = make(tune='decoder', cache_dir=str(tmp_path))
    frozen = copy.deepcopy(model.image_encoder.state_dict())
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
    )
    for _ in range(2):
        total(model.loss(*batch())).backward()
        optimizer.step()
    assert (model.cache.misses, model.cache.hits) == (2, 2) and not model.image_encoder.training
    assert all(torch.equal(value, frozen[name]) for name, value in model.image_encoder.state_dict().items())
    assert not any(
        name.startswith('image_encoder')
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )
    with pytest.raises(ValueError, match="tune='all' trains it"):
        make(cache_dir=str(tmp_path))


def test_low_rank_training_exports_official_names():
    names = set(build_sam(copy.deepcopy(SIZES)).state_dict())
    model = make(tune='lora', lora=dict(rank=2))
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition('.')[2] for name in learned if name.startswith('image_encoder')} == {
        'lora_a',
        'lora_b',
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('lora_b'):
                nn.init.normal_(parameter)
    exported = model.export_state_dict()
    assert set(exported) == names
    plain = build_sam(copy.deepcopy(SIZES)).train()
    plain.load_state_dict(exported, strict=True)
    images = batch()[0]
    assert torch.allclose(plain.image_encoder(images), model.embed(images), atol=1e-5)
    assert model.to_sam().image_encoder is model.image_encoder


def test_checkpoints_have_the_official_names_and_backbones_load():
    model = make()
    assert set(model.state_dict()) == set(build_sam(copy.deepcopy(SIZES)).state_dict())
    weights = {f'backbone.{name}': value + 1 for name, value in model.image_encoder.state_dict().items()}
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys and torch.equal(
        model.image_encoder.neck[0].weight, weights['backbone.neck.0.weight']
    )


def test_layer_decay():
    model = make()
    depths = {name: model.get_layer_depth(name) for name, _ in model.named_parameters()}
    assert {total for _, total in depths.values()} == {4}
    assert depths['image_encoder.pos_embed'][0] == depths['image_encoder.patch_embed.proj.weight'][0] == 0
    assert (
        depths['image_encoder.blocks.0.attn.qkv.weight'][0] == 1
        and depths['image_encoder.blocks.1.norm1.bias'][0] == 2
    )
    assert depths['image_encoder.neck.0.weight'][0] == depths['mask_decoder.iou_token.weight'][0] == 3


def test_arguments_out_of_range():
    for settings, message in (
        (dict(tune='some'), "tune='some'"),
        (dict(rounds=1, silent_rounds=1), 'rounds=1'),
        (dict(ambiguous=('mask',)), 'ambiguous='),
        (dict(max_masks=0), 'max_masks=0'),
        (dict(clicks=dict(clicks=0)), 'clicks=0'),
    ):
        with pytest.raises(ValueError, match=message):
            make(**settings)
    with pytest.raises(ValueError, match='do not fit into the square of 64'):
        make().embed(torch.zeros(1, 3, 64, 80))
    with pytest.raises(ValueError, match="mode='train'"):
        make()(torch.zeros(1, 3, 64, 64), mode='train')


class Oracle:
    """Predicts a rectangle around the clicked pixel, first half of the object and then all of it."""

    img_size = 32

    def encode_prompts(self, points, labels, boxes, masks):
        self.recorded.append((points, labels, boxes, masks))
        return points, labels

    def decode(self, embedding, index, points, labels, multimask):
        number = len(points)
        logits = torch.full((number, 3 if multimask else 1, 32, 32), -1.0)
        if len(self.recorded) == 1:
            logits[:, 1, 4:8, 4:8] = 1.0  # half of the object, from the most confident of three
            logits[:, 2, :, :] = 1.0
            return logits, torch.tensor([[0.1, 0.9, 0.2]]).expand(number, -1)
        logits[:, 0, 4:8, 4:12] = 1.0
        return logits, torch.ones(number, 1)


def test_clicks_are_made_at_the_size_of_the_file():
    oracle = Oracle()
    oracle.recorded = []
    target = torch.zeros(1, 64, 48, dtype=torch.bool)
    target[0, 8:16, 8:24] = True
    results = ClickSimulation(clicks=3, keep_masks=True)(oracle, torch.zeros(1, 1, 8, 8), target, (32, 24))
    assert results['click_ious'].shape == (1, 3) and results['areas'].tolist() == [128]
    assert results['click_ious'][0, 0] == pytest.approx(0.5, abs=0.1) and results['click_ious'][
        0, 1:
    ].tolist() == [1.0, 1.0]
    assert results['best_ious'][0] == results['click_ious'][0, 0] and results['box_ious'].tolist() == [1.0]
    points, labels, boxes, masks = oracle.recorded[0]
    assert (
        points.shape == (1, 1, 2)
        and 4 <= points[0, 0, 0] <= 12
        and 4 <= points[0, 0, 1] <= 8
        and masks is None
        and len(boxes) == 0
    )
    points, labels, _, masks = oracle.recorded[1]
    assert (
        labels.tolist() == [[1, 1]]
        and points[0, 1, 0] >= 8
        and torch.equal(masks[0, 0] > 0, masks[0, 0] == 1)
    )
    assert oracle.recorded[2][1].tolist() == [[1, 1, -1]]  # nothing is wrong any more
    assert oracle.recorded[3][2].tolist() == [[4, 4, 12, 8]]
    assert results['points'][0, 0, 2] == 1 and results['last_masks'].equal(target)


def test_prediction_in_the_runner_form():
    model = make(clicks=dict(clicks=2)).eval()
    images = torch.randn(2, 3, 48, 64)
    inputs = [
        sample(disc(20, 20, 12, 96, 128), disc(60, 50, 30, 96, 128), height=96, width=128),
        sample(height=96, width=128),
    ]
    for single in inputs:
        single.set_metainfo(dict(img_shape=(48, 64), ori_shape=(96, 128)))
    first, second = model(images, inputs, mode='predict')
    assert first.pred_instances.click_ious.shape == (2, 2) and len(second.pred_instances.click_ious) == 0
    assert bool(((first.pred_instances.box_ious >= 0) & (first.pred_instances.box_ious <= 1)).all())
    with pytest.raises(ValueError, match='x.jpg has no masks to click at'):
        model(
            images[:1], [BaseDataElement(metainfo=dict(img_shape=(48, 64), img_path='x.jpg'))], mode='predict'
        )


def test_the_way_back_to_the_size_of_the_file_is_the_official_one():
    sam, logits = build_sam(copy.deepcopy(SIZES)), torch.randn(2, 3, 16, 16)
    assert torch.equal(
        to_file_size(logits, 64, (48, 64), (96, 128)), sam.postprocess_masks(logits, (48, 64), (96, 128))
    )


def test_contour_of_a_square():
    mask = disc(32, 32, 0).numpy()
    mask[10:30, 10:30] = True
    band = contour(mask, 2 / 64 / 2**0.5)  # two pixels
    inner = mask.copy()
    inner[:] = False
    inner[12:28, 12:28] = True
    assert (band == (mask & ~inner)).all() and not contour(mask & False, 0.02).any()
