"""The multi-scale test of the detection configs: every view, back in the image, through one suppression."""

import warnings

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image
from torchvision.ops import batched_nms

from mmssl.config.load import load_config
from mmssl.hosts import patches
from mmssl.registry import MODELS, build


def test_views_are_turned_back_and_merged(tmp_path, repo_root):
    patches.apply()
    init_default_scope('mmdet')
    dataset = Config.fromfile(repo_root / 'configs/_base_/datasets/bccd_360x480.py')
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'a.png')
    steps = [step for step in dataset.tta_pipeline[1].transforms if step[0].type != 'LoadAnnotations']
    for resize, side in zip(steps[0], (32, 64, 96), strict=True):
        resize.scale = (side, side)
    pipeline = Compose([dataset.tta_pipeline[0], dict(type='TestTimeAug', transforms=steps)])
    views = pipeline(dict(img_path=str(tmp_path / 'a.png'), img_id=0))
    cfg = load_config('smoke/rfcn')
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = build(ConfigDict(**dataset.tta_model, module=cfg.model), MODELS).eval()
    assert len(views['inputs']) == 6 and len({tuple(view.shape[1:]) for view in views['inputs']}) == 3
    batch = {key: [[value] for value in values] for key, values in views.items()}
    (merged,) = model.test_step(batch)
    boxes, scores, labels = [], [], []
    for index in range(6):
        single = {key: values[index] for key, values in batch.items()}
        found = model.module.test_step(single)[0].pred_instances
        own = found.bboxes
        if views['data_samples'][index].flip:
            own = torch.stack([90 - own[:, 2], own[:, 1], 90 - own[:, 0], own[:, 3]], 1)
        boxes, scores, labels = [*boxes, own], [*scores, found.scores], [*labels, found.labels]
    boxes, scores, labels = (torch.cat(each) for each in (boxes, scores, labels))
    keep = batched_nms(boxes, scores, labels, 0.3)[:100]
    result = merged.pred_instances
    assert torch.allclose(result.scores, scores[keep]) and torch.allclose(
        result.bboxes, boxes[keep], atol=1e-4
    )
