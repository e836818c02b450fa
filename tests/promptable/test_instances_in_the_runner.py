"""A small R-FCN with a SAM in ``mmssl test``: boxes and masks measured by mmdet's CocoMetric."""

import json
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from mmssl.apis.loading import build_model
from mmssl.apis.sam import load_sam
from mmssl.cli import main
from mmssl.data.images import read_rgb
from mmssl.promptable import SamPredictor

pytest.importorskip('mmdet')

CONFIG = """
_base_ = 'mmssl::smoke/rfcn.py'
model = dict(
    _delete_=True,
    type='mmssl.PromptedInstanceSegmentor',
    detector=_base_.model,
    sam=dict(
        type='mmssl.SAM',
        image_encoder=dict(
            type='mmssl.SAMImageEncoder', img_size=64, embed_dim=32, depth=2, num_heads=2, out_chans=32,
            window_size=3, global_attn_indexes=(1, )),
        mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32)))
test_dataloader = dict(dataset=dict(indices=3))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
"""


def test_boxes_and_masks_are_measured(monkeypatch, with_demo, tmp_path):
    (tmp_path / 'both.py').write_text(CONFIG)
    detector, _ = build_model('smoke/rfcn.py', 'random')
    with torch.no_grad():
        detector.roi_head.bbox_head.rfcn_cls.weight.normal_(std=0.5)  # so that something is found
    torch.save(dict(state_dict=detector.state_dict()), tmp_path / 'rfcn.pth')
    sam = load_sam(str(tmp_path / 'both.py'), 'random')
    torch.save(sam.state_dict(), tmp_path / 'sam.pth')
    monkeypatch.chdir(with_demo(tmp_path))
    assert (
        main(
            [
                'test',
                'both.py',
                'rfcn.pth',
                '--out',
                'found.pkl',
                '--work-dir',
                'run',
                '--cfg-options',
                'model.sam_checkpoint=sam.pth',
            ]
        )
        == 0
    )
    (path,) = (tmp_path / 'run').glob('*/*.json')
    metrics = json.loads(path.read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/segm_mAP_50'} <= set(metrics) and 0 <= metrics[
        'coco/segm_mAP'
    ] <= 1
    results = pickle.loads((tmp_path / 'found.pkl').read_bytes())
    assert len(results) == 3 and all(len(result['pred_instances']['scores']) for result in results)
    predictor, matches = SamPredictor(sam), results[0]['pred_instances']
    predictor.set_image(read_rgb(tmp_path / results[0]['img_path']))
    for box, code in list(zip(matches['bboxes'], matches['masks'], strict=True))[:4]:
        expected = predictor.predict(box=box.numpy(), multimask_output=False)[0][0]
        assert (coco.decode(code).astype(bool) == expected).mean() > 0.9999 and expected.shape == (240, 320)
        assert np.isfinite(box.numpy()).all()
