"""R-FCN on the demo scenes: two processes train, and detect what one detects."""

import json
import pickle

import pytest
import torch

pytestmark = pytest.mark.slow

CONFIG = """
_base_ = '{root}/configs/smoke/rfcn.py'
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(batch_size=2)
test_dataloader = dict(dataset=dict(indices=7))
default_hooks = dict(checkpoint=dict(interval=2))
"""


def metrics(work_dir):
    (path,) = work_dir.glob('*/*.json')
    return {key: value for key, value in json.loads(path.read_text()).items() if key.startswith('coco/')}


def test_two_processes_train_and_detect_like_a_single_process(repo_root, warm_cli, with_demo, tmp_path):
    with_demo(tmp_path)
    (tmp_path / 'two.py').write_text(CONFIG.format(root=repo_root))
    trained = warm_cli('train', 'two.py', '--no-validate', '--work-dir', 'run', cwd=tmp_path, ranks=2)
    assert trained.returncode == 0, trained.stderr[-4000:]
    weights = torch.load(tmp_path / 'run/iter_2.pth', weights_only=True)['state_dict']
    assert all(bool(torch.isfinite(value).all()) for value in weights.values() if value.is_floating_point())
    # after two iterations nothing is found: large weights, so that detections differ from image to image
    weights['roi_head.bbox_head.rfcn_cls.weight'] = (
        torch.randn(weights['roi_head.bbox_head.rfcn_cls.weight'].shape) * 0.5
    )
    torch.save(weights, tmp_path / 'weights.pth')
    arguments = ['two.py', 'weights.pth']
    both = warm_cli('test', *arguments, '--out', 'two.pkl', '--work-dir', 'two', cwd=tmp_path, ranks=2)
    assert both.returncode == 0, both.stderr[-4000:]
    alone = warm_cli('test', *arguments, '--out', 'one.pkl', '--work-dir', 'one', cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr[-3000:]
    first_metrics, second_metrics = metrics(tmp_path / 'one'), metrics(tmp_path / 'two')
    assert first_metrics == second_metrics and 'coco/bbox_mAP_50' in first_metrics
    first, second = (pickle.loads((tmp_path / name).read_bytes()) for name in ('one.pkl', 'two.pkl'))
    assert len(first) == len(second) == 7  # seven images on two processes: one is padded, and counts once
    for own, other in zip(first, second, strict=True):
        assert own['img_id'] == other['img_id'] and len(own['pred_instances']['scores'])
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.allclose(
                own['pred_instances'][key].float(), other['pred_instances'][key].float(), atol=1e-5
            ), key
