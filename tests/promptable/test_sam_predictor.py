"""The predictor: results of the official class, errors that name the value, embeddings on disk."""

import numpy as np
import pytest
import torch

from mmssl.promptable import InteractiveSAM, SamPredictor, build_sam
from mmssl.promptable.predictor import ResizeLongestSide

SIZE = 96
ENCODER = dict(
    img_size=SIZE, embed_dim=32, depth=3, num_heads=2, global_attn_indexes=(1,), window_size=4, out_chans=32
)
SIZES = dict(
    image_encoder=ENCODER,
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32),
)
SHAPE = (70, 110)
POINTS, LABELS = np.array([[20, 30], [90.5, 11.25]]), np.array([1, 0])
BOX = np.array([5, 8, 100, 60.5])
PROMPTS = {
    'point': dict(point_coords=POINTS[:1], point_labels=LABELS[:1]),
    'points': dict(point_coords=POINTS, point_labels=LABELS),
    'box': dict(box=BOX),
    'points+box': dict(point_coords=POINTS, point_labels=LABELS, box=BOX),
    'nothing': dict(),
    'mask': dict(mask_input=True),
    'points+box+mask': dict(point_coords=POINTS, point_labels=LABELS, box=BOX, mask_input=True),
}


def picture(shape=SHAPE, seed=0):
    """Smooth colours."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(*(np.linspace(0, 6, edge) for edge in shape), indexing='ij')
    waves = [
        np.sin(rows * rng.uniform(0.5, 2) + rng.uniform(0, 6)) + np.cos(columns * rng.uniform(0.5, 2))
        for _ in range(3)
    ]
    return ((np.stack(waves, -1) + 2) * 63.75).astype(np.uint8)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return build_sam(SIZES)


@pytest.fixture(scope='module')
def pair(official_sam):
    package = pytest.importorskip('segment_anything')
    theirs, ours = official_sam(ENCODER), build_sam(SIZES)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return SamPredictor(ours), package.SamPredictor(theirs)


@pytest.mark.parametrize('shape', [SHAPE, (200, 61), (96, 96)])
@pytest.mark.parametrize('image_format', ['RGB', 'BGR'])
def test_embeddings_and_sizes_of_the_official_class(pair, shape, image_format):
    image = picture(shape)
    for predictor in pair:
        predictor.set_image(image, image_format)
    mine, theirs = pair
    assert (
        mine.is_image_set
        and mine.original_size == theirs.original_size == shape
        and mine.input_size == tuple(theirs.input_size)
    )
    torch.testing.assert_close(mine.get_image_embedding(), theirs.get_image_embedding(), atol=1e-4, rtol=1e-4)
    assert mine.features is mine.get_image_embedding() and mine.device == theirs.device


@pytest.mark.parametrize('kind', PROMPTS)
@pytest.mark.parametrize('multimask', [True, False])
def test_results_of_the_official_class(pair, kind, multimask):
    request = dict(PROMPTS[kind])
    if 'mask_input' in request:
        request['mask_input'] = (
            np.random.default_rng(1).normal(size=(1, SIZE // 4, SIZE // 4)).astype(np.float32) * 4
        )
    results = []
    for predictor in pair:
        predictor.set_image(picture())
        results.append(
            [
                *predictor.predict(**request, multimask_output=multimask),
                predictor.predict(**request, multimask_output=multimask, return_logits=True)[0],
            ]
        )
    for mine, theirs in zip(*results, strict=True):
        assert type(mine) is type(theirs) and mine.dtype == theirs.dtype and mine.shape == theirs.shape
    assert results[0][0].shape == (3 if multimask else 1, *SHAPE) and results[1][3].std() > 0.02
    assert np.array_equal(results[0][0], results[1][0]), 'the same masks, bit by bit'
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)
    np.testing.assert_allclose(results[0][2], results[1][2], atol=1e-4)
    np.testing.assert_allclose(results[0][3], results[1][3], atol=1e-4)


def test_several_prompts_as_tensors(pair):
    mine, theirs = pair
    for predictor in pair:
        predictor.set_image(picture())
    coords = torch.rand(
        5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ) * torch.tensor(SHAPE[::-1])
    boxes = torch.tensor([[1.0, 2.0, 50.0, 60.0]] * 5)
    expected = [
        theirs.transform.apply_coords_torch(coords, SHAPE),
        theirs.transform.apply_boxes_torch(boxes, SHAPE),
    ]
    got = [mine.transform.apply_coords_torch(coords, SHAPE), mine.transform.apply_boxes_torch(boxes, SHAPE)]
    assert all(torch.equal(*both) for both in zip(expected, got, strict=True))
    labels = torch.tensor([[1, 0, 1]] * 5)
    for request in (
        (got[0], labels),
        (got[0], labels, got[1]),
        (None, None, got[1]),
        (coords / 2, labels.float()),
    ):
        item, other = mine.predict_torch(*request), theirs.predict_torch(*request)
        assert torch.equal(item[0], other[0]) and item[0].shape == (5, 3, *SHAPE)
        torch.testing.assert_close(item[1:], other[1:], atol=1e-4, rtol=1e-4)


def test_coordinates_and_images_are_resized_alike():
    utils = pytest.importorskip('segment_anything.utils.transforms')
    mine, theirs = ResizeLongestSide(96), utils.ResizeLongestSide(96)
    for shape in (SHAPE, (33, 500), (96, 40), (1, 1)):
        assert mine.get_preprocess_shape(*shape, 96) == theirs.get_preprocess_shape(*shape, 96)
        assert np.array_equal(mine.apply_image(picture(shape)), theirs.apply_image(picture(shape)))
        positions = np.random.default_rng(0).integers(0, 33, (7, 2))
        assert np.array_equal(mine.apply_coords(positions, shape), theirs.apply_coords(positions, shape))
        assert np.array_equal(mine.apply_boxes(np.arange(8), shape), theirs.apply_boxes(np.arange(8), shape))
    assert positions.dtype == int and positions.max() < 33, 'the given places are not changed'


@pytest.mark.parametrize('write', ['in place', 'through .data'])
def test_changed_weights_and_embeddings_are_never_stale(model, write):
    predictor = SamPredictor(build_sam(SIZES))
    predictor.model.load_state_dict(model.state_dict())
    predictor.set_image(picture())
    decoder = predictor.model.mask_decoder
    for tensor in (
        decoder.transformer.layers[0].cross_attn_token_to_image.v_proj.weight,
        predictor.model.prompt_encoder.no_mask_embed.weight,
        predictor.features,
    ):
        before = predictor.predict(box=BOX)[2]
        assert np.array_equal(before, predictor.predict(box=BOX)[2])
        if write == 'in place':
            with torch.no_grad():
                tensor.mul_(-2).add_(1)
        else:
            tensor.data.mul_(-2).add_(1)
        changed = predictor.predict(box=BOX)[2]
        assert np.abs(changed - before).max() > 1e-3
        fresh = SamPredictor(predictor.model)
        fresh.set_embedding(predictor.features.clone(), predictor.input_size, predictor.original_size)
        assert np.array_equal(fresh.predict(box=BOX)[2], changed)


def test_the_mode_is_left_as_it_is():
    model = build_sam(dict(SIZES, image_encoder=dict(ENCODER, drop_path_rate=0.5))).train()
    predictor = SamPredictor(model)
    predictor.set_image(picture())
    first = predictor.features
    predictor.set_image(picture())
    assert (
        torch.equal(first, predictor.features)
        and all(part.training for part in model.modules())
        and not first.requires_grad
    )


def test_a_model_in_training_predicts(model):
    torch.manual_seed(0)
    trained = InteractiveSAM(build_sam(SIZES))
    predictor = SamPredictor(trained)
    predictor.set_image(picture())
    assert (
        predictor.predict(box=BOX)[0].shape == (3, *SHAPE)
        and predictor.model.image_encoder is trained.image_encoder
    )


def test_half_precision_gives_float_results(model):
    half = build_sam(SIZES).bfloat16()
    predictor = SamPredictor(half)
    predictor.set_image(picture())
    masks, ious, logits = predictor.predict(box=BOX)
    assert (masks.dtype, ious.dtype, logits.dtype) == (np.bool_, np.float32, np.float32)


def test_embeddings_on_disk_are_exact_and_mended(model, tmp_path, monkeypatch):
    plain, calls = SamPredictor(model), []
    encoder_type = type(model.image_encoder)
    forward = encoder_type.forward

    def counted(self, images):
        calls.append(1)
        return forward(self, images)

    monkeypatch.setattr(encoder_type, 'forward', counted)  # an encoder with hooks is run each time
    predictor = SamPredictor(model, cache_dir=tmp_path)
    for image in (picture(), picture(seed=1)):
        plain.set_image(image)
        calls.clear()
        for item in (predictor, predictor, SamPredictor(model, cache_dir=tmp_path)):
            item.set_image(image)
            assert torch.equal(plain.features, item.features) and len(calls) == 1, 'encoded once, exactly'
    files = sorted(tmp_path.rglob('*.pt'))
    assert len(files) == 2
    for broken in (b'', files[0].read_bytes()[:100], b'not a file of torch'):
        files[0].write_bytes(broken)
        files[1].write_bytes(broken)
        calls.clear()
        predictor.set_image(picture(seed=1))
        predictor.set_image(picture(seed=1))
        assert torch.equal(plain.features, predictor.features) and len(calls) == 1
    weight = model.image_encoder.neck[0].weight
    for weights, factor in ((weight.detach(), 2), (weight.data, 4)):  # torch counts the first write only
        weights.mul_(factor)
        calls.clear()
        predictor.set_image(picture(seed=1))
        assert calls == [1], 'other weights, another embedding'
        weights.div_(factor)
    assert not list(tmp_path.rglob('*.part'))


def test_wrong_images_are_named(model):
    predictor = SamPredictor(model)
    for image, kind, words in (
        (
            picture().astype(np.float32),
            TypeError,
            r'float32 with values from \d+ to \d+; give uint8, 0 to 255: image.round',
        ),
        (picture() / 255, TypeError, r'\(image \* 255\).round\(\).astype\(np.uint8\)'),
        (picture() / 100.0 - 1.2, TypeError, 'float64 with values from -1.2 to 1.3.*: bring its values'),
        (picture().astype(np.int64) + 300, TypeError, 'int64 with values from'),
        (np.full((4, 4, 3), np.nan), TypeError, 'from nan to nan'),
        (np.ones((4, 4, 3), bool), TypeError, 'an image of bool'),
        (picture()[:0], ValueError, r'an empty image of shape \(0, 110, 3\)'),
        (picture()[..., 0], ValueError, r'shape \(70, 110\); give \(H, W, 3\): np.stack'),
        (np.zeros((5, 6, 4), np.uint8), ValueError, r'image\[..., :3\]'),
        (picture().transpose(2, 0, 1), ValueError, r'image.transpose\(1, 2, 0\)'),
        ('image.jpg', TypeError, 'an image of type str'),
        (torch.zeros(3, 5, 5), TypeError, 'set_torch_image'),
    ):
        with pytest.raises(kind, match=words):
            predictor.set_image(image)
    with pytest.raises(ValueError, match="image_format='rgb'; give 'RGB' or 'BGR'"):
        predictor.set_image(picture(), 'rgb')
    for image, words in (
        (torch.zeros(1, 3, 50, 50), 'with 96 as the longer'),
        (torch.zeros(3, 96, 96), r'shape \(3, 96, 96\)'),
        (torch.rand(1, 3, 96, 50), r'image \* 255'),
        (torch.randn(1, 3, 96, 50), 'not normalised'),
        (torch.full((1, 3, 96, 50), 300.0), 'from 300 to 300'),
    ):
        with pytest.raises(ValueError, match=words):
            predictor.set_torch_image(image, (96, 50))
    with pytest.raises(ValueError, match='original_image_size'):
        predictor.set_torch_image(torch.full((1, 3, 96, 50), 100.0), (96, 50, 3))
    assert not predictor.is_image_set
    for call in (
        predictor.predict,
        predictor.get_image_embedding,
        lambda: predictor.predict_torch(None, None),
    ):
        with pytest.raises(RuntimeError, match='call set_image'):
            call()
    with pytest.raises(TypeError, match='Linear is no SAM'):
        SamPredictor(torch.nn.Linear(1, 1))


def test_wrong_prompts_are_named(model):
    predictor = SamPredictor(model)
    predictor.set_image(picture())
    item, box = np.array([[3, 4]]), [0, 0, 110, 70]
    for request, words in (
        (
            dict(point_coords=[[20, 71]], point_labels=[1]),
            r'point \(20, 71\) is outside the image, which is 110 wide and 70 high',
        ),
        (dict(point_coords=[[3, 4], [-1, 5]], point_labels=[1, 1]), r'point \(-1, 5\) is outside'),
        (dict(point_coords=[[np.nan, 4]], point_labels=[1]), r'point \(nan, 4\)'),
        (dict(point_labels=[1]), 'point_labels without point_coords'),
        (dict(point_coords=item), 'point_coords without point_labels'),
        (dict(point_coords=item, point_labels=[1, 0]), r'shape \(1, 2\) with point_labels of shape \(2,\)'),
        (dict(point_coords=item[0], point_labels=[1]), r'give \(N, 2\) and \(N,\)'),
        (dict(point_coords=item, point_labels=[5]), 'a point has the label 5; give 1 for foreground'),
        (
            dict(point_coords=item, point_labels=[2]),
            'the label 2; .*; corners of a box are given as box or boxes',
        ),
        (dict(box=[0, 0, 120, 10]), r'corner of a box \(120, 10\) is outside'),
        (dict(box=[50, 50, 40, 60]), r'box \[50, 50, 40, 60\] ends before it begins'),
        (dict(box=[box, box]), 'Several boxes go to predict_torch'),
        (dict(mask_input=np.zeros((1, *SHAPE))), r'shape \(1, 70, 110\); give \(1, 24, 24\)'),
        (dict(mask_input=np.zeros((24, 24))), r'give \(1, 24, 24\)'),
    ):
        with pytest.raises(ValueError, match=words):
            predictor.predict(**request)
    predictor.predict(
        point_coords=[[110, 70], [-5, -5]], point_labels=[1, -1]
    )  # the border, and a point that does not count
    for request, words in (
        ((torch.tensor([[[90.0, 80.0]]]), torch.ones(1, 1)), 'apply_coords_torch'),
        ((None, torch.ones(1, 1)), 'without'),
        ((None, None, torch.tensor([[0.0, 0.0, 105.0, 50.0]])), 'pixels of the resized image'),
        ((torch.zeros(2, 2), torch.ones(1, 1)), r'give \(B, N, 2\)'),
        ((None, None, None, torch.zeros(1, 1, 70, 110)), r'give \(B, 1, 24, 24\)'),
    ):
        with pytest.raises(ValueError, match=words):
            predictor.predict_torch(*request)
    predictor.reset_image()
    with pytest.raises(RuntimeError, match='there is no image yet'):
        predictor.predict(box=BOX)
