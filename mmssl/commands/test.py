"""``mmssl test``: evaluate a checkpoint with the metrics of a config."""

import argparse
from typing import Any

HELP = 'evaluate a checkpoint with the metrics of its config'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from mmssl.engine.launch import add_common_arguments

    parser.add_argument('config', help='path of a config, or its name below configs/')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_common_arguments(parser)
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='keep predictions: a .pkl file (classification, detection) or a folder of PNG masks (segmentation)',
    )
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions into this folder')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--amp', action='store_true', help='bfloat16')


# what differs by host: the metric that keeps predictions, the hook that draws, the wrapper of test-time
# augmentation
HOSTS: dict[str, dict[str, Any]] = {
    'mmpretrain': {'dump': {'type': 'DumpResults'}, 'dump_key': 'out_file_path', 'tta': 'AverageClsScoreTTA'},
    'mmdet': {'dump': {'type': 'DumpDetResults'}, 'dump_key': 'out_file_path', 'tta': 'DetTTAModel'},
    'mmseg': {'dump': None, 'dump_key': 'output_dir', 'tta': 'SegTTAModel'},
}


def run(args: argparse.Namespace) -> None:
    """Evaluate.

    Raises:
        FileNotFoundError, ValueError, TypeError, KeyError: something in the config, the checkpoint or the
            data does not fit.
    """
    import os

    from mmssl.checkpoint import trusted
    from mmssl.config.check import check_kinds
    from mmssl.engine.launch import describe, leave_process_group, load_config, prepare, whole_work_dir
    from mmssl.hints import nearest_path

    cfg = load_config(args.config, args.cfg_options)
    if '://' not in args.checkpoint and not os.path.isfile(args.checkpoint):
        raise FileNotFoundError(f'checkpoint {args.checkpoint} does not exist{nearest_path(args.checkpoint)}')
    if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise ValueError(
            f'{args.config} has no test_dataloader and test_evaluator: nothing to test. A pre-trained backbone is measured by '
            '`mmssl knn` or `mmssl linear`, or by fine-tuning (configs/*/benchmarks)'
        )
    check_kinds(cfg)
    prepare(cfg, args, args.config)
    cfg.load_from, cfg.resume = args.checkpoint, False
    _apply(cfg, args)
    with trusted(args.trust_checkpoint), whole_work_dir(cfg.work_dir) as runners:
        from mmssl.engine.runner import runner_class

        try:
            runner = runner_class(cfg).from_cfg(cfg)
            runners.append(runner)
            runner.test()
            leave_process_group()
        except (OSError, ImportError):
            raise
        except Exception as error:
            raise describe(error) from error


def _listed(evaluators) -> list:
    return list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]


def _apply(cfg, args: argparse.Namespace) -> None:
    host = HOSTS.get(cfg.get('default_scope', 'mmengine'), {})
    if (args.out or args.tta) and not host:
        raise ValueError(
            f'--out and --tta know the hosts {", ".join(HOSTS)}, not default_scope={cfg.get("default_scope")!r}'
        )
    if args.out:
        evaluators = _listed(cfg.test_evaluator)
        if host['dump'] is None:
            evaluators[0][host['dump_key']] = args.out
        elif args.out.endswith(('.pkl', '.pickle')):
            evaluators = [*evaluators, {**host['dump'], host['dump_key']: args.out}]
        else:
            raise ValueError(f'--out {args.out}: predictions of {cfg.default_scope} are written as .pkl')
        cfg.test_evaluator = list(evaluators)
    ours = [
        part
        for part in _listed(cfg.test_evaluator)
        if part.get('type') in ('mmssl.SegmentationMetric', 'mmssl.ClickMetric')
    ]
    if args.show_dir and ours:
        ours[0]['overlay_dir'] = (
            args.show_dir
        )  # every image, with what is to be found; the host's hook draws the first one alone
        if ours[0]['type'] == 'mmssl.ClickMetric':
            cfg.merge_from_dict({'model.clicks.keep_masks': True})
    elif args.show_dir:
        hook = cfg.default_hooks.get('visualization')
        if not hook:
            raise ValueError(f'--show-dir: {args.config} has no default_hooks.visualization to draw with')
        hook.update(
            {'enable': True, 'out_dir': args.show_dir}
            if cfg.default_scope == 'mmpretrain'
            else {'draw': True}
        )
        if cfg.default_scope == 'mmdet':
            hook['test_out_dir'] = args.show_dir
        elif cfg.default_scope == 'mmseg':
            cfg.visualizer['save_dir'] = args.show_dir
    if args.tta:
        if not cfg.get('tta_pipeline'):
            raise ValueError(f'--tta: {args.config} has no tta_pipeline')
        cfg.model = {**cfg.get('tta_model', {'type': host['tta']}), 'module': cfg.model}
        dataset = cfg.test_dataloader.dataset
        while 'dataset' in dataset:
            dataset = dataset['dataset']
        dataset['pipeline'] = cfg.tta_pipeline
    if args.amp:
        cfg.test_cfg['fp16'] = True
