"""``mmssl test``: evaluate a checkpoint with the metrics of its config."""

import argparse
import os
from typing import Any, NamedTuple

from mmssl.commands.arguments import add_common_arguments, add_config
from mmssl.hints import nearest_path

HELP = 'evaluate a checkpoint with the metrics of its config'


class Toolbox(NamedTuple):
    """What differs between toolboxes: the metric that saves predictions, and the model wrapper of TTA.

    ``dump`` is None where the metric of the config saves predictions itself.
    """

    dump: dict | None
    dump_key: str
    tta_model: str


TOOLBOXES = {
    'mmpretrain': Toolbox({'type': 'DumpResults'}, 'out_file_path', 'AverageClsScoreTTA'),
    'mmdet': Toolbox({'type': 'DumpDetResults'}, 'out_file_path', 'DetTTAModel'),
    'mmseg': Toolbox(None, 'output_dir', 'SegTTAModel'),
}
# metrics that draw every image with its labels; the toolboxes' hooks draw only the first of a batch
DRAWING_METRICS = ('mmssl.SegmentationMetric', 'mmssl.ClickMetric')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    add_common_arguments(parser)
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save predictions: a .pkl file (classification, detection) or a folder of PNG masks '
        '(segmentation)',
    )
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions into this folder')
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation')
    parser.add_argument('--amp', action='store_true', help='evaluate in bfloat16')


def run(args: argparse.Namespace) -> None:
    """Evaluate.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: Config, checkpoint and data do not fit.
    """
    from mmssl.checkpoint import trusted
    from mmssl.config.check import check_nested_settings
    from mmssl.config.error_text import explained_error
    from mmssl.config.load import load_config
    from mmssl.engine.launch import leave_process_group, prepare
    from mmssl.engine.work_dir import work_dir_transaction

    cfg = load_config(args.config, args.cfg_options)
    if '://' not in args.checkpoint and not os.path.isfile(args.checkpoint):
        raise FileNotFoundError(f'checkpoint {args.checkpoint} does not exist{nearest_path(args.checkpoint)}')
    if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise ValueError(
            f'{args.config} has no test_dataloader and test_evaluator: nothing to test. A pre-trained '
            'backbone is '
            'evaluated by `mmssl knn` or `mmssl linear`, or by fine-tuning (configs/*/benchmarks)'
        )
    check_nested_settings(cfg)
    added = prepare(cfg, args, args.config)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    apply_options(cfg, args)
    with trusted(args.trust_checkpoint), work_dir_transaction(cfg.work_dir) as transaction:
        from mmssl.engine.runner import runner_class

        try:
            runner = runner_class(cfg).from_cfg(cfg)
            transaction.runner = runner
            if added:
                runner.logger.info(f'mmssl added: {", ".join(added)}')
            runner.test()
            leave_process_group()
        except (OSError, ImportError):
            raise
        except Exception as error:
            raise explained_error(error) from error


def apply_options(cfg: Any, args: argparse.Namespace) -> None:
    """Apply the options of the command to the config.

    Raises:
        ValueError: The toolbox or the config does not support an option.
    """
    if args.out:
        _save_predictions(cfg, args.out, _toolbox_of(cfg, '--out'))
    if args.show_dir:
        _draw_predictions(cfg, args.show_dir, args.config)
    if args.tta:
        _augment(cfg, args.config, _toolbox_of(cfg, '--tta'))
    if args.amp:
        cfg.test_cfg['fp16'] = True


def _toolbox_of(cfg: Any, option: str) -> Toolbox:
    scope = cfg.get('default_scope', 'mmengine')
    if scope not in TOOLBOXES:
        raise ValueError(f'{option} supports {", ".join(TOOLBOXES)}, not default_scope={scope!r}')
    return TOOLBOXES[scope]


def _evaluators(cfg: Any) -> list:
    evaluators = cfg.test_evaluator
    return list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]


def _save_predictions(cfg: Any, out: str, toolbox: Toolbox) -> None:
    evaluators = _evaluators(cfg)
    if toolbox.dump is None:
        evaluators[0][toolbox.dump_key] = out
    elif out.endswith(('.pkl', '.pickle')):
        evaluators.append({**toolbox.dump, toolbox.dump_key: out})
    else:
        raise ValueError(f'--out {out}: predictions of {cfg.default_scope} are written as .pkl')
    cfg.test_evaluator = evaluators


def _draw_predictions(cfg: Any, folder: str, config: str) -> None:
    for evaluator in _evaluators(cfg):
        if evaluator.get('type') in DRAWING_METRICS:
            evaluator['overlay_dir'] = folder
            if evaluator['type'] == 'mmssl.ClickMetric':
                cfg.merge_from_dict({'model.clicks.keep_masks': True})
            return
    hook = cfg.default_hooks.get('visualization')
    if not hook:
        raise ValueError(f'--show-dir: {config} has no default_hooks.visualization to draw with')
    if cfg.default_scope == 'mmpretrain':
        hook.update({'enable': True, 'out_dir': folder})
        return
    hook['draw'] = True
    if cfg.default_scope == 'mmdet':
        hook['test_out_dir'] = folder
    elif cfg.default_scope == 'mmseg':
        cfg.visualizer['save_dir'] = folder


def _augment(cfg: Any, config: str, toolbox: Toolbox) -> None:
    if not cfg.get('tta_pipeline'):
        raise ValueError(f'--tta: {config} has no tta_pipeline')
    cfg.model = {**cfg.get('tta_model', {'type': toolbox.tta_model}), 'module': cfg.model}
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    dataset['pipeline'] = cfg.tta_pipeline
