"""Checkpoints: reading them without executing code, writing them atomically, and matching them to a model."""

from mmssl.checkpoint.files import (
    TEMPORARY_SUFFIX,
    CheckpointError,
    Metered,
    UnsafeCheckpointError,
    find_resume_checkpoint,
    load_file,
    load_weights,
    safe_loading,
    save_file,
    seed_from_checkpoint,
    strip_module,
    strip_prefix,
    trusted,
    weights_of,
    write_text,
)
from mmssl.checkpoint.matching import MatchReport, MismatchError, load_matching, select_prefix

__all__ = [
    'TEMPORARY_SUFFIX',
    'CheckpointError',
    'MatchReport',
    'Metered',
    'MismatchError',
    'UnsafeCheckpointError',
    'find_resume_checkpoint',
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
    'write_text',
]
