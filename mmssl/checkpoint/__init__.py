"""Checkpoints: read without executing code, written whole or not at all, matched to a model with a report."""

from mmssl.checkpoint.channels import grow_channels, grown_channels
from mmssl.checkpoint.dtypes import check_dtypes
from mmssl.checkpoint.files import (
    TEMPORARY_SUFFIX,
    ProgressFile,
    load_file,
    safe_loading,
    save_file,
    write_json,
    write_text,
)
from mmssl.checkpoint.keys import select_prefix, strip_module, strip_prefix, weights_of
from mmssl.checkpoint.matching import MatchReport, load_matching, load_weights
from mmssl.checkpoint.resume import find_resume_checkpoint, seed_from_checkpoint
from mmssl.checkpoint.trust import trusted
from mmssl.errors import CheckpointError, MismatchError, UnsafeCheckpointError

__all__ = [
    'TEMPORARY_SUFFIX',
    'CheckpointError',
    'MatchReport',
    'MismatchError',
    'ProgressFile',
    'UnsafeCheckpointError',
    'check_dtypes',
    'find_resume_checkpoint',
    'grow_channels',
    'grown_channels',
    'load_file',
    'load_matching',
    'load_weights',
    'safe_loading',
    'save_file',
    'seed_from_checkpoint',
    'select_prefix',
    'strip_module',
    'strip_prefix',
    'trusted',
    'weights_of',
    'write_json',
    'write_text',
]


def __getattr__(name: str):
    if name == 'Metered':
        from mmssl.errors import warn_renamed

        warn_renamed('mmssl.checkpoint.Metered', 'mmssl.checkpoint.ProgressFile')
        return ProgressFile
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
