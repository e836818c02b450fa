"""Patches of how mmengine reads, writes and matches checkpoints.

All of them lead to :mod:`mmssl.checkpoint`. torch and mmengine are imported inside the functions only.
"""

import os
import re

from mmssl.hosts.patching import listed, replace


@listed(
    reason='a checkpoint that torch refuses to load safely is loaded once more with its code executed',
    versions='mmengine 0.10.12 (OneDL)',
    until='_safe_torch_load raises instead of falling back to weights_only=False',
)
def read_checkpoints_safely() -> None:
    """Read checkpoint files by :func:`mmssl.checkpoint.load_file`."""

    def make(original):
        from mmssl.checkpoint import load_file

        def safe_torch_load(file, map_location=None, weights_only=None):
            return load_file(file, map_location=map_location)

        return safe_torch_load

    replace('_safe_torch_load', ('mmengine.runner.checkpoint',), make)


@listed(
    reason='a downloaded checkpoint is loaded with its code executed',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='load_url passes weights_only=True',
)
def download_checkpoints_safely() -> None:
    """Load downloaded checkpoints as plain data; check them, and go on with a download that broke off."""

    def make(original):
        def load_url(url, model_dir=None, map_location=None, progress=True, check_hash=False, file_name=None):
            from mmssl.checkpoint import load_file
            from mmssl.checkpoint.download import download, download_path

            path = download_path(url, model_dir, file_name)
            # torch's convention: the name ends in the first digits of the checksum
            digits = re.search(r'-([a-f0-9]{6,})\.', os.path.basename(path)) if check_hash else None
            return load_file(download(url, path, digits[1] if digits else '', progress), map_location)

        return load_url

    modules = ('mmengine.runner.checkpoint', 'mmengine.utils.dl_utils', 'mmengine.utils.dl_utils.hub')
    replace('load_url', modules, make)


@listed(
    reason='a checkpoint is written over the one before, so that an interrupted save leaves neither',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='mmengine writes to a temporary file and renames it',
)
def save_checkpoints_atomically() -> None:
    """Write checkpoints on the local disk by :func:`mmssl.checkpoint.save_file`."""

    def make(original):
        from mmengine.fileio import LocalBackend, get_file_backend

        from mmssl.checkpoint import save_file

        def save_checkpoint(checkpoint, filename, file_client_args=None, backend_args=None):
            remote = file_client_args is not None or '://' in str(filename)
            if remote or not isinstance(get_file_backend(filename, backend_args=backend_args), LocalBackend):
                return original(checkpoint, filename, file_client_args, backend_args)
            return save_file(checkpoint, filename)

        return save_checkpoint

    modules = (
        'mmengine.runner.checkpoint',
        'mmengine.runner',
        'mmengine.runner.runner',
        'mmengine._strategy.deepspeed',
        'mmengine._strategy.colossalai',
    )
    replace('save_checkpoint', modules, make)


@listed(
    reason='weights none of which fit the model are loaded with a log line only',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='mmengine raises where nothing matches',
)
def report_loaded_weights() -> None:
    """Load weights by :func:`mmssl.checkpoint.load_matching`, which reports and checks what matched."""

    def make(original):
        from mmssl.checkpoint import load_matching

        def load_state_dict(module, state_dict, strict=False, logger=None):
            weights = _in_own_names(module, state_dict)
            load_matching(module, weights, strict=strict, logger=logger)

        return load_state_dict

    modules = (
        'mmengine.runner.checkpoint',
        'mmengine.runner',
        'mmdet.models.backbones.pvt',
        'mmseg.models.backbones.vit',
        'mmseg.models.decode_heads.san_head',
        'mmseg.models.text_encoder.clip_text_encoder',
    )
    replace('load_state_dict', modules, make)


def _in_own_names(module, state_dict):
    from mmengine.logging import print_log

    from mmssl.convert.released import in_own_names

    weights, family = in_own_names(module.state_dict(), state_dict)
    if family is not None:
        print_log(f"the weights have the release's names ({family}) and are renamed", logger='current')
    return weights


@listed(
    reason='weights on a model hub cannot be named',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='CheckpointLoader knows timm:// and hf://',
)
def load_from_hubs() -> None:
    """Load ``timm://NAME`` and ``hf://OWNER/REPO``."""
    from mmengine.runner import CheckpointLoader

    from mmssl.checkpoint import load_file
    from mmssl.checkpoint.hub import SCHEMES, fetch

    def load(filename, map_location=None):
        return load_file(fetch(filename), map_location)

    CheckpointLoader.register_scheme(prefixes=SCHEMES, loader=load, force=True)


@listed(
    reason='a wrong prefix of init_cfg ends in an assertion; files with weights under "model" are not read',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='mmengine names the prefixes that the file has',
)
def select_weights_by_prefix() -> None:
    """Select the weights under a prefix by :func:`mmssl.checkpoint.select_prefix`."""

    def make(original):
        from mmengine.runner import checkpoint as toolbox

        from mmssl.checkpoint import select_prefix, strip_module, weights_of

        def load_checkpoint_with_prefix(prefix, filename, map_location=None):
            loaded = toolbox._load_checkpoint(filename, map_location=map_location)
            return select_prefix(strip_module(weights_of(loaded, filename)), prefix, filename)

        return load_checkpoint_with_prefix

    replace('_load_checkpoint_with_prefix', ('mmengine.runner.checkpoint',), make)


@listed(
    reason="the runners strip '^module.' from the names of weights, whose bare dot also takes 'modules' off "
    "'modules1.weight'",
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until=r"the runners pass r'^module\.'",
)
def strip_module_prefix_only() -> None:
    """Leave ``module.`` to the loader of mmssl, and accept files with weights under ``model``."""

    def make(original):
        from mmssl.checkpoint import weights_of

        def load_checkpoint_to_model(
            model, checkpoint, strict=False, logger=None, revise_keys=((r'^module\.', ''),)
        ):
            # load_matching removes the prefix, and says so; a pattern without a match stands in its place,
            # as mmengine copies a plain dict only where there is a pattern
            revise_keys = [
                (r'(?!)' if pattern in (r'^module.', r'^module\.') else pattern, new)
                for pattern, new in revise_keys
            ]
            if 'state_dict' in checkpoint:
                return original(model, checkpoint, strict, logger, revise_keys)
            original(model, {'state_dict': weights_of(checkpoint)}, strict, logger, revise_keys)
            return checkpoint

        return load_checkpoint_to_model

    modules = (
        'mmengine.runner.checkpoint',
        'mmengine.runner.runner',
        'mmengine.infer.infer',
        'mmdet.apis.det_inferencer',
        'mmseg.apis.mmseg_inferencer',
    )
    replace('_load_checkpoint_to_model', modules, make)


@listed(
    reason='last_checkpoint is followed blindly, to a file that was moved, or is missing or truncated',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='mmengine checks the file and falls back to the one before',
)
def find_whole_checkpoints() -> None:
    """Find the checkpoint to resume by :func:`mmssl.checkpoint.find_resume_checkpoint`."""

    def make(original):
        from mmssl.checkpoint import find_resume_checkpoint

        def find_latest_checkpoint(path):
            latest = find_resume_checkpoint(path)
            return None if latest is None else os.fspath(latest)

        return find_latest_checkpoint

    modules = (
        'mmengine.runner.checkpoint',
        'mmengine.runner',
        'mmengine.runner.runner',
        'mmengine.runner._flexible_runner',
    )
    replace('find_latest_checkpoint', modules, make)


@listed(
    reason='configs and annotations in YAML can name Python objects, which loading them creates',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='YamlHandler loads with SafeLoader',
)
def read_yaml_safely() -> None:
    """Read YAML files as plain data, with the tuples that mmengine writes."""
    import yaml
    from mmengine.fileio.handlers import yaml_handler

    class PlainLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):  # type: ignore[misc]
        pass

    PlainLoader.add_constructor(
        'tag:yaml.org,2002:python/tuple',
        lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
    )
    yaml_handler.Loader = PlainLoader
