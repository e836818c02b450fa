"""Length and batch size of a run against its learning rate."""

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

import mmssl.registry  # noqa: F401
from mmssl.apis.training import _apply_resume
from mmssl.config.length import set_training_length
from mmssl.config.values import check_values
from mmssl.engine import training_length
from mmssl.engine.schedules import WarmupCosineLR  # noqa: F401
from mmssl.selfsup.base import ScheduledSupervisor


def warnings_of(monkeypatch, *configs, epochs=None, iters=None, done=0):
    said = []
    monkeypatch.setattr(training_length, 'print_log', lambda text, *_, **__: said.append(text))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    loop = EpochBasedTrainLoop if epochs else IterBasedTrainLoop
    training_length.warn_of_other_length(
        SimpleNamespace(
            param_schedulers=[PARAM_SCHEDULERS.build(dict(each, optimizer=optimizer)) for each in configs],
            train_loop=loop.__new__(loop),
            iter=done,
            max_epochs=epochs,
            max_iters=iters or epochs * 7,
            train_dataloader=range(7),
        )
    )
    return said


COSINE = dict(type='mmssl.WarmupCosineLR', warmup=10, end=50, by_epoch=False)
LINEAR = dict(type='LinearLR', start_factor=0.1, end=40, by_epoch=True)


def test_a_training_of_another_length_is_said_once(monkeypatch):
    (said,) = warnings_of(monkeypatch, COSINE, iters=60)
    assert 'after 50 iterations' in said and 'train_cfg.max_iters is 60' in said and '--iters 60' in said
    (said,) = warnings_of(monkeypatch, LINEAR, epochs=20)
    assert 'after 40 epochs' in said and 'train_cfg.max_epochs is 20' in said
    (said,) = warnings_of(monkeypatch, dict(COSINE, end=70), epochs=20)
    assert 'after 10 epochs' in said and 'keeps the last value' in said
    milestones = dict(type='MultiStepLR', milestones=[8, 11], by_epoch=True)
    assert 'stops before' in warnings_of(monkeypatch, milestones, epochs=5)[0]


def test_a_training_of_its_length_is_not_warned_of(monkeypatch):
    assert not warnings_of(monkeypatch, COSINE, iters=50)
    assert not warnings_of(monkeypatch, dict(COSINE, end=140), epochs=20)
    assert not warnings_of(monkeypatch, LINEAR, epochs=80)  # a warm-up only
    milestones = dict(type='MultiStepLR', milestones=[8, 11], by_epoch=True)
    assert not warnings_of(monkeypatch, milestones, epochs=12)
    constant = dict(type='ConstantLR', factor=1.0, end=1000, by_epoch=True)
    assert not warnings_of(monkeypatch, constant, epochs=12)


@pytest.mark.parametrize(
    'config,end,outcome',
    [
        (dict(type='CosineAnnealingLR', T_max=20, end=50), 20, 'rises again'),
        (dict(type='CosineAnnealingLR', T_max=100, end=50), 100, 'stops before'),
        (dict(type='CosineAnnealingLR', T_max=100), 100, 'stops before'),
        (dict(type='OneCycleLR', eta_max=1.0, total_steps=100, end=50), 100, 'stops before'),
        (dict(type='CosineRestartLR', periods=[30, 70], restart_weights=[1, 1], eta_min=0.0), 100, 'stops'),
        (dict(type='CosineRestartLR', periods=[10], eta_min=0.0, end=50), 10, 'keeps the last value'),
        (dict(type='StepLR', step_size=80, end=50), 80, 'stops before'),
        (dict(type='MultiStepLR', milestones=[20, 70], end=50), 70, 'stops before'),
    ],
)
def test_a_schedule_is_measured_by_its_shape(monkeypatch, config, end, outcome):
    (said,) = warnings_of(monkeypatch, dict(config, by_epoch=False), iters=50)
    assert f'after {end} iterations' in said and 'max_iters is 50' in said and outcome in said


def test_a_run_that_is_at_its_end_is_said(monkeypatch):
    for iters in (50, 30):
        said = warnings_of(monkeypatch, dict(COSINE, end=iters), iters=iters, done=50)
        assert said[0].startswith('nothing is trained: the checkpoint stands after')
        assert f'after iteration 50, and the training ends after {iters};' in said[0]


def test_a_run_without_checkpoint_keeps_the_weights_it_begins_with(tmp_path, capfd):
    """--resume is given to runs that may be new; mmengine drops load_from, and they begin at random."""
    settings = dict(work_dir=str(tmp_path), load_from='mae.pth', resume=False)
    cfg = Config(settings)
    _apply_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'mae.pth')
    assert 'resume from: the run begins from the weights of mae.pth' in ''.join(capfd.readouterr())
    torch.save(dict(meta=dict(iter=3), state_dict={}), tmp_path / 'iter_3.pth')
    (tmp_path / 'last_checkpoint').write_text('iter_3.pth')
    cfg = Config(settings)
    _apply_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (True, None)


def test_usual_schedules_of_several_parts_are_not_warned_of(monkeypatch):
    parts = (
        dict(type='LinearLR', start_factor=0.1, end=5),
        dict(type='CosineAnnealingLR', eta_min=0.0, begin=5, T_max=285, end=285),  # as YOLOX of mmdet
        dict(type='ConstantLR', factor=1, begin=285, end=300),
    )
    assert not warnings_of(monkeypatch, *parts, epochs=300)
    assert not warnings_of(monkeypatch, dict(type='StepLR', step_size=20, by_epoch=False, end=50), iters=50)


def test_a_schedule_in_epochs_is_refused_in_an_iteration_loop(monkeypatch):
    with pytest.raises(ValueError, match='LinearLR .*counts epochs.* lr would never change; set by_epoch'):
        warnings_of(monkeypatch, COSINE, dict(LINEAR), iters=50)
    plateau = dict(type='ReduceOnPlateauLR', monitor='accuracy')  # steps after each validation
    assert not warnings_of(monkeypatch, plateau, iters=50)


@pytest.mark.parametrize('epochs', [1, 3, 7, 10, 33, 250])
@pytest.mark.parametrize('convert', [True, False])
def test_scaled_parts_follow_each_other_up_to_the_end(epochs, convert):
    """The learning rate of the last iteration is that of the last iteration of the original."""
    common = dict(by_epoch=True, convert_to_iter_based=convert)
    parts = [
        dict(type='LinearLR', start_factor=0.01, begin=0, end=5, **common),
        dict(type='CosineAnnealingLR', T_max=95, begin=5, end=100, eta_min=0.0, **common),
    ]
    cfg = ConfigDict(train_cfg=dict(by_epoch=True, max_epochs=100), param_scheduler=parts)
    set_training_length(cfg, epochs=epochs)
    warmup, cosine = cfg.param_scheduler
    assert warmup.begin == 0 and warmup.end == cosine.begin and cosine.end == epochs
    assert cosine.T_max == pytest.approx(cosine.end - cosine.begin)
    if convert:
        assert warmup.end == pytest.approx(epochs / 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = [
        PARAM_SCHEDULERS.build(dict(each, optimizer=optimizer, epoch_length=40)) for each in (warmup, cosine)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of schedulers that step without an optimizer
        for step in range(epochs * 40):
            for each in built:
                if not each.by_epoch or step % 40 == 39:
                    each.step()
    assert optimizer.param_groups[0]['lr'] < 0.02


def test_restarts_and_steps_are_scaled_by_their_positions():
    cfg = ConfigDict(
        train_cfg=dict(max_iters=100),
        model=dict(type='mmssl.SwAV', queue_start_epoch=15, freeze_prototypes=5000),
        param_scheduler=[
            dict(type='CosineRestartLR', periods=[33, 33, 34], restart_weights=[1, 1, 1], by_epoch=False),
            dict(type='OneCycleLR', eta_max=1.0, total_steps=100, by_epoch=False),
            dict(type='MultiStepLR', milestones=[88, 99], by_epoch=False),
        ],
    )
    set_training_length(cfg, iters=10)
    restarts, cycle, steps = cfg.param_scheduler
    assert (restarts.periods, cycle.total_steps, steps.milestones) == ([3, 4, 3], 10, [9, 9])
    assert (cfg.model.queue_start_epoch, cfg.model.freeze_prototypes) == (2, 500)


def test_the_whole_schedule_is_scaled():
    cfg = ConfigDict(
        train_cfg=dict(by_epoch=True, max_epochs=100),
        model=dict(head=dict(warmup_teacher_temp_epochs=30)),
        param_scheduler=[
            dict(type='LinearLR', begin=0, end=10, by_epoch=True),
            dict(type='CosineAnnealingLR', begin=10, end=100, T_max=90, eta_min=0.5, by_epoch=True),
            dict(type='MultiStepLR', milestones=[60, 80], gamma=0.1),
            dict(type='mmssl.WarmupCosineLR', warmup=2.5, end=100),
        ],
    )
    with pytest.raises(ValueError, match='its length is set by --epochs'):
        set_training_length(copy.deepcopy(cfg), iters=50)
    with pytest.raises(ValueError, match='--epochs 0 must be at least 1'):
        set_training_length(copy.deepcopy(cfg), epochs=0)
    set_training_length(cfg, epochs=50)
    assert cfg.train_cfg.max_epochs == 50 and cfg.model.head.warmup_teacher_temp_epochs == 15
    linear, cosine, steps, whole = cfg.param_scheduler
    assert (linear.begin, linear.end, cosine.begin, cosine.end) == (0, 5, 5, 50)
    assert (cosine.T_max, cosine.eta_min, steps.milestones, steps.gamma) == (45, 0.5, [30, 40], 0.1)
    assert (whole.warmup, whole.end) == (1.25, 50)


def test_a_warmup_stays_shorter_than_the_shortest_schedule():
    schedule = dict(type='mmssl.WarmupCosineLR', warmup=1, end=40, by_epoch=True)
    cfg = ConfigDict(train_cfg=dict(by_epoch=True, max_epochs=40), param_scheduler=schedule)
    set_training_length(cfg, epochs=1)
    assert (cfg.param_scheduler.warmup, cfg.param_scheduler.end) == (1 / 40, 1)


def test_accumulated_batches_count_for_the_learning_rate():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [dict(params=weights[:1], lr=0.1), dict(params=weights[1:], lr=0.2)]
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.1), accumulative_counts=4)
    training_length.scale_learning_rate(wrapper, dict(enable=True, base_batch_size=16), 8, 2)
    assert [group['lr'] for group in wrapper.optimizer.param_groups] == pytest.approx([0.4, 0.8])
    assert wrapper.get_lr()['base_lr'] == pytest.approx([0.4])
    training_length.scale_learning_rate(wrapper, dict(enable=False, base_batch_size=16), 8, 2)
    assert wrapper.get_lr()['base_lr'] == pytest.approx([0.4])


@pytest.mark.parametrize(
    'settings',
    [
        dict(train_cfg=dict(max_iters=0)),
        dict(train_cfg=dict(max_iters=-5)),
        dict(train_cfg=dict(max_epochs='10')),
        dict(train_cfg=dict(by_epoch='False', max_iters=5)),
        dict(train_cfg=dict(max_iters=10, val_interval=0)),
        dict(train_dataloader=dict(batch_size='8')),
        dict(train_dataloader=dict(num_workers=-1)),
        dict(train_dataloader=dict(drop_last='no')),
        dict(optim_wrapper=dict(accumulative_counts=0)),
        dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr='0.1'))),
        dict(optim_wrapper=dict(clip_grad=dict(max_norm=-1))),
        dict(param_scheduler=dict(type='LinearLR', by_epoch='False')),
        dict(param_scheduler=[dict(type='mmssl.WarmupCosineLR', warmup='1', end=5)]),
        dict(param_scheduler=[dict(type='MultiStepLR', milestones=['3'])]),
        dict(auto_scale_lr=dict(base_batch_size=0)),
        dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch='False'))),
        dict(default_hooks=dict(logger=dict(type='LoggerHook', interval='10'))),
        dict(randomness=dict(seed='1')),
        dict(resume='yes'),
        dict(load_from=5),
        dict(train_dataloader=dict(num_workers=10**9)),
        dict(data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[1.0, 0.0, 1.0])),
        dict(model=dict(data_preprocessor=dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))),
        dict(model=dict(test_cfg=dict(rpn=dict(max_per_img=-50)))),
        dict(model=dict(heads=[dict(nms_pre=0)])),
        dict(model=dict(neck=dict(decoder_depth=-8))),
        dict(model=dict(test_cfg=dict(nms=dict(iou_threshold=178.5)))),
        dict(data_preprocessor=dict(mean=[116280.0], std=[1.0])),
        dict(data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[58.4, 57.1])),
        dict(data_preprocessor=dict(mean=[1.0], std=[math.inf])),
        dict(optim_wrapper=dict(optimizer=dict(type='AdamW', weight_decay=math.inf))),
        dict(optim_wrapper=dict(optimizer=dict(type='SGD', momentum=4.8))),
        dict(train_dataloader=dict(batch_size=10**9)),
    ],
)
def test_other_types_and_signs_are_refused(settings):
    with pytest.raises(ValueError, match=r'= .* must be '):
        check_values(settings)


@pytest.mark.parametrize(
    'classes,message',
    [('cat', r"'cat' must be a list of names; .* \('cat',\)"), (('a', 'b', 'a'), "has 'a' twice")],
)
def test_names_of_classes_are_a_list_of_different_ones(classes, message):
    """('cat') without a comma is a text, whose letters would be the classes."""
    inner = dict(type='CocoDataset', metainfo=dict(classes=classes))
    for dataset in (inner, dict(type='RepeatDataset', times=2, dataset=inner), dict(datasets=[inner])):
        with pytest.raises(ValueError, match=rf'train_dataloader\.dataset.*\.metainfo\.classes.*{message}'):
            check_values(dict(train_dataloader=dict(dataset=dataset)))
    for usual in (('cat',), ['a', 'b'], 'names/classes.txt'):
        check_values(dict(train_dataloader=dict(dataset=dict(metainfo=dict(classes=usual)))))


def test_usual_normalisations_and_initialisers_are_taken():
    for mean, std in (
        ([0, 0, 0], [1, 1, 1]),
        ([0.0], [255.0]),
        ([127.5], [127.5]),
        ([123.7, 116.3], [58.4, 57]),
    ):
        check_values(dict(model=dict(data_preprocessor=dict(mean=mean, std=std))))
    check_values(dict(model=dict(init_cfg=dict(type='Normal', std=0.01), test_cfg=dict(max_per_img=-1))))


class Counted(ScheduledSupervisor):
    def __init__(self):
        super().__init__(torch.nn.Identity())
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.updates = 0

    def after_update(self):
        self.updates += 1

    def loss(self, *_):
        raise NotImplementedError


@pytest.mark.parametrize('fused', [True, False])
def test_a_skipped_step_runs_no_hooks(fused):
    model = Counted()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    model.attach(optimizer)
    scaler = torch.amp.GradScaler('cpu', init_scale=4.0)
    for factor, updates in ((1.0, 1), (float('inf'), 1), (1.0, 2)):
        scaler.scale(model.weight.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert model.updates == int(model.clock.steps) == updates
