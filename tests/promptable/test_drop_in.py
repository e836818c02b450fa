"""Scripts written for the package segment_anything run with the import changed, with the same results."""

import importlib
import inspect
import pkgutil
import warnings

import numpy as np
import pytest
import torch

import mmssl.promptable as ours
from mmssl.promptable import SamAutomaticMaskGenerator, SamPredictor, build_sam

official = pytest.importorskip('segment_anything')

ENCODER = dict(
    depth=2,
    embed_dim=32,
    img_size=96,
    num_heads=4,
    patch_size=16,
    global_attn_indexes=[1],
    window_size=4,
    out_chans=32,
)
SIZES = dict(
    image_encoder=ENCODER,
    mask_decoder=dict(
        transformer=dict(depth=2, embedding_dim=32, num_heads=4, mlp_dim=64), iou_head_hidden_dim=32
    ),
)
HEIGHT, WIDTH = 60, 110
IMAGE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
MODULES = [
    info.name.removeprefix('segment_anything')
    for info in pkgutil.walk_packages(official.__path__, 'segment_anything.')
]


@pytest.fixture(scope='module')
def pair(official_sam):
    theirs = official_sam(ENCODER, confident=True)
    model = build_sam(SIZES)
    model.load_state_dict(theirs.state_dict())
    return theirs, model


def same(got, expected, tolerance=1e-3):
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), atol=tolerance, rtol=tolerance)


def public_names(module):
    """Names that a module defines, and those that a package exports."""
    exports = hasattr(module, '__path__')
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith('_')
        and not inspect.ismodule(value)
        and (
            getattr(value, '__module__', '').startswith(module.__name__)
            if exports
            else getattr(value, '__module__', '') == module.__name__ or name == 'sam_model_registry'
        )
    ]


def test_all_modules_of_the_package_are_walked():
    assert {'.build_sam', '.modeling.common', '.utils', '.utils.onnx'} < set(MODULES) and len(MODULES) == 14


@pytest.mark.parametrize('suffix', ['', *MODULES])
def test_public_names_and_signatures_of_the_package_are_there(suffix):
    theirs = importlib.import_module(f'segment_anything{suffix}')
    mine = importlib.import_module(f'mmssl.promptable{suffix}')
    for name in public_names(theirs):
        assert hasattr(mine, name), name
        value, own = getattr(theirs, name), getattr(mine, name)
        if inspect.isfunction(value):
            assert_takes(own, value)
        elif inspect.isclass(value):
            assert_takes(own.__init__, value.__init__)
            for method, function in vars(value).items():
                if method.startswith('_'):
                    continue
                assert hasattr(own, method), f'{name}.{method}'
                is_static = isinstance(function, staticmethod)
                assert is_static == isinstance(inspect.getattr_static(own, method), staticmethod)
                if callable(getattr(value, method)):
                    assert_takes(getattr(own, method), getattr(value, method))


def public_attributes(value):
    """Attributes of an object, of its class as far as they are values, and parts of a module."""
    instance = {**vars(value), **vars(value).get('_modules', {}), **vars(value).get('_parameters', {})}
    constants = {
        name: getattr(value, name)
        for name, entry in vars(type(value)).items()
        if isinstance(entry, (property, int, float, str))
    }
    return {
        name: entry for name, entry in {**instance, **constants}.items() if not name.startswith(('_', 'T_'))
    }


def test_attributes_of_all_objects_are_those_of_the_package(pair):
    theirs, model = pair
    own_modules = dict(model.named_modules())
    objects = [(module, own_modules[name]) for name, module in theirs.named_modules()]
    predictors = official.SamPredictor(theirs), SamPredictor(model)
    objects.append(predictors)
    settings = dict(points_per_side=3)
    objects.append(
        (
            official.SamAutomaticMaskGenerator(theirs, **settings),
            SamAutomaticMaskGenerator(model, **settings),
        )
    )
    objects.append((predictors[0].transform, predictors[1].transform))
    for module in ('segment_anything', 'mmssl.promptable'):
        graph = importlib.import_module(f'{module}.utils.onnx').SamOnnxModel
        objects.append((graph(pair[module != 'segment_anything'], True),))
    objects[-2:] = [(objects[-2][0], objects[-1][0])]
    for after_image in (False, True):
        for expected, got in objects:
            for name, value in public_attributes(expected).items():
                assert hasattr(got, name), (type(expected), name)
                own = getattr(got, name)
                if isinstance(value, (bool, int, float, str, tuple, torch.device)):
                    assert own == value and type(own) is type(value), (type(expected), name)
                elif isinstance(value, (torch.Tensor, np.ndarray)):
                    assert own.shape == value.shape and own.dtype == value.dtype, (type(expected), name)
        if not after_image:
            for predictor in predictors:
                predictor.set_image(IMAGE)
    own = predictors[1]
    assert (own.orig_h, own.orig_w, own.input_h, own.input_w) == (HEIGHT, WIDTH, 52, 96)
    own.reset_image()
    assert (own.orig_h, own.orig_w, own.input_h, own.input_w) == (None,) * 4


def assert_takes(own, function):
    """Every call that ``function`` takes is one that ``own`` takes."""
    expected = list(inspect.signature(function).parameters.values())
    got = inspect.signature(own).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in got.values()):
        return
    names = [parameter.name for parameter in expected]
    assert set(names) <= set(got), (own, names, list(got))
    if 'checkpoint' in names:  # build_sam also takes the name of a model first
        return
    positional = [
        parameter.name for parameter in expected if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    ]
    assert list(got)[: len(positional)] == positional, own
    for parameter in expected:
        if parameter.default is not parameter.empty and parameter.default is not got[parameter.name].default:
            default = got[parameter.name].default
            given = tuple(parameter.default) if isinstance(default, tuple) else parameter.default
            assert given == default, (own, parameter)


def test_the_registry_and_the_functions_take_a_file_first(tmp_path):
    assert set(official.sam_model_registry) <= set(ours.sam_model_registry)
    missing = tmp_path / 'sam_vit_h_4b8939.pth'
    for build in (ours.build_sam, ours.build_sam_vit_b, *ours.sam_model_registry.values()):
        for file in (missing, str(missing)):
            with pytest.raises(FileNotFoundError, match='sam_vit_h_4b8939'):
                build(file)
            with pytest.raises(FileNotFoundError, match='sam_vit_h_4b8939'):
                build(checkpoint=file)
    with pytest.raises(ValueError, match="no model 'vit_x'"):
        build_sam('vit_x')


def notebook_on_onnx(package, model, path):
    """The calls of the notebook on ONNX, in order: masks of a point, of points with a mask, of a box."""
    onnx = importlib.import_module(f'{package.__name__}.utils.onnx')
    onnx_model = onnx.SamOnnxModel(model, return_single_mask=True)
    embed_dim = model.prompt_encoder.embed_dim
    embed_size = model.prompt_encoder.image_embedding_size
    mask_size = [4 * side for side in embed_size]
    dummy_inputs = {
        'image_embeddings': torch.randn(1, embed_dim, *embed_size, dtype=torch.float),
        'point_coords': torch.randint(low=0, high=1024, size=(1, 5, 2), dtype=torch.float),
        'point_labels': torch.randint(low=0, high=4, size=(1, 5), dtype=torch.float),
        'mask_input': torch.randn(1, 1, *mask_size, dtype=torch.float),
        'has_mask_input': torch.tensor([1], dtype=torch.float),
        'orig_im_size': torch.tensor([1500, 2250], dtype=torch.float),
    }
    with warnings.catch_warnings(), open(path, 'wb') as file:
        warnings.simplefilter('ignore')
        torch.onnx.export(
            onnx_model,
            tuple(dummy_inputs.values()),
            file,
            export_params=True,
            verbose=False,
            opset_version=17,
            do_constant_folding=True,
            input_names=list(dummy_inputs.keys()),
            output_names=['masks', 'iou_predictions', 'low_res_masks'],
            dynamic_axes={'point_coords': {1: 'num_points'}, 'point_labels': {1: 'num_points'}},
            dynamo=False,  # the exporter of that time; the newer one takes the axes for those of other inputs
        )
    session = importlib.import_module('onnxruntime').InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    predictor = package.SamPredictor(model)
    predictor.set_image(IMAGE)
    inputs = dict(
        image_embeddings=predictor.get_image_embedding().cpu().numpy(),
        mask_input=np.zeros((1, 1, *mask_size), dtype=np.float32),
        has_mask_input=np.zeros(1, dtype=np.float32),
        orig_im_size=np.array(IMAGE.shape[:2], dtype=np.float32),
    )

    def run(points, labels, **others):
        coords = predictor.transform.apply_coords(np.asarray(points)[None], IMAGE.shape[:2])
        labels = np.asarray(labels, dtype=np.float32)[None]
        prompts = dict(point_coords=coords.astype(np.float32), point_labels=labels)
        return session.run(None, {**inputs, **prompts, **others})

    results = [run([[50, 30], [0, 0]], [1, -1])]
    again = dict(mask_input=results[0][2], has_mask_input=np.ones(1, dtype=np.float32))
    results.append(run([[50, 30], [80, 40], [0, 0]], [1, 1, -1], **again))
    results.append(run([[20, 10], [90, 55]], [2, 3]))
    results.append(run([[20, 10], [90, 55], [60, 40], [50, 20], [30, 30]], [2, 3, 0, 1, 0], **again))
    return results


def test_the_notebook_on_onnx_gives_the_same_in_onnxruntime(pair, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    expected = notebook_on_onnx(official, pair[0], tmp_path / 'theirs.onnx')
    results = notebook_on_onnx(ours, pair[1], tmp_path / 'ours.onnx')
    for got, values in zip(results, expected, strict=True):
        for array, value in zip(got, values, strict=True):
            assert array.shape == value.shape and array.dtype == value.dtype
        same(got[1], values[1])
        same(got[2], values[2])
    predictor = SamPredictor(pair[1])
    predictor.set_image(IMAGE)
    point, label = np.array([[50, 30]]), np.array([1])
    masks, scores, logits = predictor.predict(point, label, return_logits=True)
    same(results[0][0][0, 0], masks[scores.argmax()])
    same(results[0][2][0, 0], logits[scores.argmax()])


def test_parts_can_be_built_as_the_official_functions_do(pair):
    from functools import partial

    from mmssl.promptable.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    theirs, _ = pair
    model = Sam(
        image_encoder=ImageEncoderViT(
            **ENCODER,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
        ),
        prompt_encoder=PromptEncoder(32, (6, 6), (96, 96), 16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4),
            transformer_dim=32,
            iou_head_depth=3,
            iou_head_hidden_dim=32,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()
    model.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same(model.image_encoder(images), theirs.image_encoder(images))
    assert {block.norm1.eps for block in ImageEncoderViT(**ENCODER).blocks} == {1e-5}


def predictor_notebook(package, model):
    """The calls of the notebook on prompts, in order."""
    results = []
    predictor = package.SamPredictor(model)
    predictor.set_image(IMAGE)
    point, label = np.array([[50, 30]]), np.array([1])
    masks, scores, logits = predictor.predict(point_coords=point, point_labels=label, multimask_output=True)
    results += [masks, scores, logits]
    mask_input = logits[np.argmax(scores), :, :]
    points, labels = np.array([[50, 30], [80, 40]]), np.array([1, 0])
    results += predictor.predict(
        point_coords=points, point_labels=labels, mask_input=mask_input[None, :, :], multimask_output=False
    )
    box = np.array([20, 10, 90, 55])
    results += predictor.predict(
        point_coords=None, point_labels=None, box=box[None, :], multimask_output=False
    )
    results += predictor.predict(point_coords=point, point_labels=label, box=box, multimask_output=False)
    boxes = torch.tensor([[10, 5, 60, 40], [-3, -2, WIDTH + 5, HEIGHT + 4]], device=predictor.device)
    transformed = predictor.transform.apply_boxes_torch(boxes, IMAGE.shape[:2])
    results += predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=transformed, multimask_output=False
    )
    transforms = importlib.import_module(f'{package.__name__}.utils.transforms')
    resize = transforms.ResizeLongestSide(model.image_encoder.img_size)
    image = torch.as_tensor(resize.apply_image(IMAGE), device=model.device).permute(2, 0, 1).contiguous()
    record = dict(
        image=image, boxes=resize.apply_boxes_torch(boxes, IMAGE.shape[:2]), original_size=IMAGE.shape[:2]
    )
    for output in model([record, record], multimask_output=False):
        results += [output['masks'], output['iou_predictions'], output['low_res_logits']]
    return results


def test_the_notebook_on_prompts_gives_the_same(pair):
    theirs, model = pair
    expected = predictor_notebook(official, theirs)
    for results in (predictor_notebook(ours, model), predictor_notebook(ours, theirs)):
        for got, value in zip(results, expected, strict=True):
            assert got.shape == value.shape and got.dtype == value.dtype and type(got) is type(value)
            if got.dtype in (bool, torch.bool):
                assert (np.asarray(got) != np.asarray(value)).mean() < 0.01
            else:
                same(got, value)


def test_the_notebook_on_automatic_masks_gives_the_same(pair):
    settings = dict(
        points_per_side=4,
        pred_iou_thresh=0.1,
        stability_score_thresh=0.1,
        crop_n_layers=1,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=10,
    )
    theirs, model = pair
    expected = official.SamAutomaticMaskGenerator(model=theirs, **settings).generate(IMAGE)
    assert expected
    for generator in (
        SamAutomaticMaskGenerator(model=model, **settings),
        SamAutomaticMaskGenerator(model=theirs, **settings),
    ):
        records = generator.generate(IMAGE)
        assert len(records) == len(expected)
        for got, record in zip(records, expected, strict=True):
            assert set(got) == set(record)
            assert {key: type(value) for key, value in got.items()} == {
                key: type(value) for key, value in record.items()
            }
            same(got['predicted_iou'], record['predicted_iou'])


def onnx_inputs(points):
    generator = torch.Generator().manual_seed(points)
    return dict(
        image_embeddings=torch.randn(1, 32, 6, 6, generator=generator),
        point_coords=torch.rand(1, points, 2, generator=generator) * 50,
        point_labels=torch.randint(-1, 4, (1, points), generator=generator).float(),
        mask_input=torch.randn(1, 1, 24, 24, generator=generator),
        has_mask_input=torch.ones(1),
        orig_im_size=torch.tensor([60.0, 110.0]),
    )


@pytest.mark.parametrize('single', [True, False])
@pytest.mark.parametrize('stability', [True, False])
@pytest.mark.parametrize('extra', [True, False])
@torch.no_grad()
def test_the_exported_decoder_selects_and_scores_as_the_official_graph(pair, single, stability, extra):
    from segment_anything.utils.onnx import SamOnnxModel

    from mmssl.promptable.export import export_decoder
    from mmssl.promptable.utils.onnx import SamOnnxModel as Own

    theirs, model = pair
    reference = SamOnnxModel(theirs, single, stability, extra)
    graphs = [
        SamOnnxModel(model, single, stability, extra),
        Own(model, single, stability, extra),
        Own(theirs, single, stability, extra),
    ]
    if single != stability == extra:  # the two that cover all branches
        options = dict(use_stability_score=stability, return_extra_metrics=extra)
        graphs.append(export_decoder(model, not single, **options).module())
    for points in (1, 2, 3, 5):
        inputs = onnx_inputs(points)
        expected = reference(**inputs)
        assert expected[0].shape[1] == (1 if single else 4)
        for graph in graphs:
            outputs = graph(*inputs.values())
            for index, (got, value) in enumerate(zip(outputs, expected, strict=True)):
                assert got.shape == value.shape
                tolerance = 3 if extra and index == 3 else 0.02 if extra and index == 2 else 1e-3
                np.testing.assert_allclose(got, value, atol=tolerance, rtol=1e-3)


@pytest.mark.filterwarnings('ignore:Converting a tensor to a Python boolean')  # checks of shapes
def test_a_traced_graph_keeps_the_size_of_the_image_open(pair):
    from mmssl.promptable.utils.onnx import SamOnnxModel

    graph = SamOnnxModel(pair[1], return_single_mask=True)
    traced = torch.jit.trace(graph, tuple(onnx_inputs(3).values()), check_trace=False)
    inputs = {**onnx_inputs(2), 'orig_im_size': torch.tensor([90.0, 40.0])}
    for got, expected in zip(traced(*inputs.values()), graph(**inputs), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_parts_of_the_image_encoder_give_the_same():
    theirs = importlib.import_module('segment_anything.modeling.image_encoder')
    mine = importlib.import_module('mmssl.promptable.modeling.image_encoder')
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, 9, 8, generator=generator)
    windows, padded = mine.window_partition(x, 4)
    assert_same((windows, padded), theirs.window_partition(x, 4))
    assert torch.equal(mine.window_unpartition(windows, 4, padded, (7, 9)), x)
    table = torch.randn(9, 4, generator=generator)
    for sizes in ((5, 5), (5, 3), (2, 4), (7, 7)):
        assert_same(mine.get_rel_pos(*sizes, table), theirs.get_rel_pos(*sizes, table))
    scores, queries = torch.randn(3, 12, 20, generator=generator), torch.randn(3, 12, 4, generator=generator)
    arguments = (scores, queries, table, table, (3, 4), (5, 4))
    same(mine.add_decomposed_rel_pos(*arguments), theirs.add_decomposed_rel_pos(*arguments), 1e-5)
    for name, settings in {
        'Block': dict(dim=8, num_heads=2, use_rel_pos=True, window_size=4),
        'Attention': dict(dim=8, num_heads=2, use_rel_pos=True, input_size=(7, 9)),
        'PatchEmbed': dict(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), in_chans=7, embed_dim=4),
    }.items():
        expected, got = (getattr(module, name)(**settings) for module in (theirs, mine))
        for parameter in expected.parameters():
            parameter.normal_(generator=generator)
        got.load_state_dict(expected.state_dict())
        same(got(x), expected(x), 1e-4)
    with pytest.raises(ValueError, match='input_size'):
        mine.Attention(8, use_rel_pos=True)


@torch.no_grad()
def test_the_layers_of_the_decoder_give_the_same():
    for module, name, arguments, shapes in (
        ('mask_decoder', 'MLP', (8, 16, 4, 3, True), [(2, 8)]),
        ('transformer', 'Attention', (8, 2, 2), [(2, 3, 8), (2, 5, 8), (2, 5, 8)]),
        ('transformer', 'TwoWayAttentionBlock', (8, 2), [(2, 3, 8), (2, 5, 8), (2, 3, 8), (2, 5, 8)]),
        ('prompt_encoder', 'PositionEmbeddingRandom', (4,), None),
        ('common', 'LayerNorm2d', (8,), [(2, 8, 3, 3)]),
        ('common', 'MLPBlock', (8, 16), [(2, 8)]),
    ):
        expected, got = (
            getattr(importlib.import_module(f'{package}.modeling.{module}'), name)(*arguments)
            for package in ('segment_anything', 'mmssl.promptable')
        )
        got.load_state_dict(expected.state_dict())
        inputs = [torch.randn(shape) for shape in shapes] if shapes else [(3, 4)]
        for ours_, theirs_ in zip(flat(got(*inputs)), flat(expected(*inputs)), strict=True):
            same(ours_, theirs_, 1e-5)


def flat(value):
    return value if isinstance(value, tuple) else (value,)


def test_small_regions_are_removed_as_by_the_official_method():
    theirs = importlib.import_module('segment_anything.utils.amg')
    mine = importlib.import_module('mmssl.promptable.utils.amg')
    masks = torch.zeros(4, 20, 30, dtype=torch.bool)
    masks[0, 2:15, 2:20] = True
    masks[0, 5, 5] = False  # a small hole
    masks[1, 2:15, 2:20] = True  # the first without its hole
    masks[2, 3:6, 22:28] = True
    masks[2, 18, 1] = True  # a small island
    masks[3, 16, 16] = True  # nothing but a small island
    for keep in (slice(None), slice(0, 2), slice(0, 0)):
        results = []
        for module, package in ((theirs, official), (mine, ours)):
            data = module.MaskData(
                rles=module.mask_to_rle_pytorch(masks[keep]),
                boxes=module.batched_mask_to_box(masks[keep]),
                iou_preds=torch.arange(4.0)[keep],
            )
            data.to_numpy()
            result = package.SamAutomaticMaskGenerator.postprocess_small_regions(data, 5, 0.7)
            assert result is data
            results.append(dict(result.items()))
        assert_same(results[1], results[0])


def test_helpers_of_automatic_masks_give_the_same():
    theirs = importlib.import_module('segment_anything.utils.amg')
    mine = importlib.import_module('mmssl.promptable.utils.amg')
    generator = torch.Generator().manual_seed(0)
    logits = torch.nn.functional.avg_pool2d(torch.randn(5, 1, 33, 42, generator=generator), 3, 1)[:, 0]
    masks = logits > 0.2
    masks[1] = False
    masks[2] = True
    boxes = torch.tensor([[0, 0, 30, 30], [25, 30, 60, 70], [60, 70, 99, 99]])
    calls = [
        ('mask_to_rle_pytorch', (masks,)),
        ('batched_mask_to_box', (masks,)),
        ('batched_mask_to_box', (masks[None],)),
        ('batched_mask_to_box', (masks[0],)),
        ('batched_mask_to_box', (masks[:0],)),
        ('calculate_stability_score', (logits, 0.0, 0.1)),
        ('is_box_near_crop_edge', (boxes, [20, 20, 120, 120], [0, 0, 200, 120])),
        ('box_xyxy_to_xywh', (boxes[1],)),
        ('build_all_layer_point_grids', (8, 2, 2)),
        ('generate_crop_boxes', ((50, 90), 2, 0.3)),
        ('uncrop_boxes_xyxy', (boxes, [3, 4, 20, 30])),
        ('uncrop_boxes_xyxy', (boxes[:, None], [3, 4, 20, 30])),
        ('uncrop_points', (boxes[:, :2], [3, 4, 20, 30])),
        ('uncrop_masks', (masks, [3, 4, 43, 35], 50, 60)),
        ('remove_small_regions', (masks[0].numpy(), 12, 'holes')),
        ('remove_small_regions', (masks[0].numpy(), 12, 'islands')),
        ('remove_small_regions', (masks[0].numpy(), 10000, 'islands')),
    ]
    for name, arguments in calls:
        assert_same(getattr(mine, name)(*arguments), getattr(theirs, name)(*arguments))
    for code in theirs.mask_to_rle_pytorch(masks):
        for name in ('rle_to_mask', 'area_from_rle', 'coco_encode_rle'):
            assert_same(getattr(mine, name)(code), getattr(theirs, name)(code))
    assert_same(
        [list(part) for part in mine.batch_iterator(2, [1, 2, 3], np.arange(3))],
        [list(part) for part in theirs.batch_iterator(2, [1, 2, 3], np.arange(3))],
    )
    for keep in (torch.tensor([True, False, True]), torch.tensor([2, 0])):
        results = []
        for module in (theirs, mine):
            data = module.MaskData(a=torch.arange(3), b=[1, 2, 3])
            data.filter(keep)
            data.cat(module.MaskData(a=torch.arange(2), b=[7], c=np.arange(2)))
            data.to_numpy()
            results.append(dict(data.items()))
        assert_same(*results)


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(got, dict):
        assert list(got) == list(expected)
        assert_same(list(got.values()), list(expected.values()))
    elif isinstance(got, (list, tuple)):
        assert len(got) == len(expected)
        for pair_of_values in zip(got, expected, strict=True):
            assert_same(*pair_of_values)
    elif isinstance(got, (np.ndarray, torch.Tensor)):
        assert got.shape == expected.shape
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-6)
    else:
        assert got == expected


def test_resize_longest_side_gives_the_same():
    theirs, own = official.utils.transforms.ResizeLongestSide, ours.utils.transforms.ResizeLongestSide
    for height, width in ((300, 500), (7, 3), (64, 64)):
        keywords = dict(oldh=height, oldw=width, long_side_length=64)
        assert own.get_preprocess_shape(**keywords) == theirs.get_preprocess_shape(**keywords)
        points = np.random.default_rng(0).uniform(0, 5, (4, 3, 2))
        for name, value in {
            'apply_coords': points,
            'apply_coords_torch': torch.tensor(points),
            'apply_boxes': points[:, :2].reshape(-1, 4),
            'apply_boxes_torch': torch.tensor(points[:, :2].reshape(-1, 4)),
        }.items():
            assert_same(*(getattr(c(64), name)(value, (height, width)) for c in (own, theirs)))
        for channels in (1, 3):
            image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
            assert_same(own(64).apply_image(image), theirs(64).apply_image(image))
    image = torch.rand(1, 3, 30, 50) * 255
    resized = own(64).apply_image_torch(image)
    assert resized.shape == (1, 3, 38, 64)
    exact = own(64).apply_image(image[0].permute(1, 2, 0).byte().numpy())
    assert np.abs(resized[0].permute(1, 2, 0).numpy() - exact).mean() < 2


def test_points_are_embedded_under_the_official_name(pair):
    theirs, model = pair
    points, labels = torch.rand(2, 2, 2) * 90, torch.tensor([[1, 0], [-1, 1]])
    for pad in (True, False):
        with torch.no_grad():
            expected = theirs.prompt_encoder._embed_points(points, labels, pad)
            same(model.prompt_encoder._embed_points(points, labels, pad), expected)


def test_zero_boxes_give_zero_masks(pair):
    none = torch.zeros(0, 4)
    for model in pair:
        predictor = SamPredictor(model)
        predictor.set_image(IMAGE)
        for multimask, count in ((True, 3), (False, 1)):
            masks, ious, logits = predictor.predict_torch(None, None, none, multimask_output=multimask)
            assert masks.shape == (0, count, HEIGHT, WIDTH) and masks.dtype == torch.bool
            assert ious.shape == (0, count) and logits.shape == (0, count, 24, 24)
    image = torch.rand(3, 50, 96) * 255
    some = dict(image=image, original_size=(HEIGHT, WIDTH), boxes=torch.tensor([[3.0, 4, 30, 40]]))
    outputs = pair[1]([{**some, 'boxes': none}, some], multimask_output=False)
    assert [len(output['masks']) for output in outputs] == [0, 1]
    alone = pair[1]([some], multimask_output=False)[0]
    torch.testing.assert_close(outputs[1]['low_res_logits'], alone['low_res_logits'], atol=1e-4, rtol=1e-4)


def test_boxes_a_little_over_the_border_are_used_as_they_are_and_others_refused(pair):
    theirs, model = pair
    predictors = official.SamPredictor(theirs), SamPredictor(model)
    box = np.array([-4.5, -2, WIDTH + 6, HEIGHT + 5])
    expected, got = (
        (predictor.set_image(IMAGE), predictor.predict(box=box, multimask_output=False))[1]
        for predictor in predictors
    )
    same(got[2], expected[2])
    with pytest.raises(ValueError, match='corner of a box'):
        predictors[1].predict(box=np.array([10, 10, 3 * WIDTH, 50]))


def test_a_dark_float_image_is_encoded_and_a_divided_one_is_refused(pair):
    predictor = SamPredictor(pair[1])
    dark = torch.zeros(1, 3, 50, 96)
    dark[..., 3, 3] = 1
    predictor.set_torch_image(dark.byte(), (50, 96))
    expected = predictor.features
    predictor.set_torch_image(dark, (50, 96))
    torch.testing.assert_close(predictor.features, expected)
    with pytest.raises(ValueError, match=r'image \* 255'):
        predictor.set_torch_image(torch.rand(1, 3, 50, 96), (50, 96))


def test_a_checkpoint_of_sam_hq_is_named(pair, tmp_path):
    state = {**pair[1].state_dict(), 'mask_decoder.hf_token.weight': torch.zeros(1, 32)}
    torch.save(state, tmp_path / 'hq.pth')
    with pytest.raises(ValueError, match='SAM-HQ'):
        build_sam(SIZES, tmp_path / 'hq.pth')
