"""What others call by name imports, and works, where neither mmdet nor mmseg is installed."""

CODE = """
import random
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmdet', 'mmseg'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Blocked())
for name in ('mmdet', 'mmseg'):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f'{name} was not blocked')

import torch
from mmssl.selfsup.swav import sinkhorn
from mmssl.selfsup.dino import DINOHead, DINOLoss
from mmssl.selfsup.infomax import donsker_varadhan_loss, fenchel_dual_loss, infonce_loss
from mmssl.selfsup.beit import blockwise_mask
from mmssl.evaluation.knn import knn_classify
from mmssl.engine.optim import LARS

codes = sinkhorn(torch.randn(8, 5), epsilon=0.05, iterations=3)
assert codes.shape == (8, 5) and torch.allclose(codes.sum(1), torch.ones(8))

loss = DINOLoss(6, 4, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=2, nepochs=5,
                student_temp=0.1, center_momentum=0.9)
assert loss(torch.randn(12, 6), torch.randn(6, 6), 0).isfinite() and loss.center.shape[-1] == 6
assert DINOHead(3, 6, hidden_dim=8, bottleneck_dim=4)(torch.randn(2, 3)).shape == (2, 6)

local, multi = torch.randn(4, 8, 9), torch.randn(4, 8, 1)
assert fenchel_dual_loss(local, multi, 'JSD').isfinite()
assert infonce_loss(local, multi).isfinite() and donsker_varadhan_loss(local, multi).isfinite()

mask = blockwise_mask((14, 14), 75, min_patches=16, rng=random.Random(0))
assert mask.shape == (14, 14) and 0 < mask.sum() <= 75

train = torch.nn.functional.normalize(torch.randn(30, 4), dim=1)
labels = torch.arange(30) % 3
assert torch.equal(knn_classify(train, labels, train, k=1, temperature=0.07, num_classes=3), labels)

weight = torch.nn.Parameter(torch.ones(2, 2))
optimizer = LARS([weight], lr=0.1, weight_decay=0, momentum=0.9, trust_coefficient=0.001)
weight.sum().backward()
optimizer.step()
assert (weight < 1).all()

import mmssl.selfsup
from mmssl.registry import MODELS
registered = set(mmssl.selfsup.__all__) - {'DINOLoss'}
assert {'MAE', 'MoCo', 'DeepInfoMax', 'SimCLR'} < registered
for name in registered:
    assert MODELS.get(f'mmssl.{name}') is not None, name
assert not {'mmdet', 'mmseg'} & {name.partition('.')[0] for name in sys.modules}
"""


def test_names_and_methods_need_neither_mmdet_nor_mmseg(warm_cli, tmp_path):
    (tmp_path / 'absent.py').write_text(CODE)
    done = warm_cli(program=tmp_path / 'absent.py', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
