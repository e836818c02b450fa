"""Weights by the name of their model: files in the package, and released files, which are downloaded."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmssl.checkpoint.download import cache_path, download
from mmssl.errors import CheckpointError
from mmssl.hints import nearest
from mmssl.weights import FOLDER, PackagedWeights, find_packaged, packaged_weights

# in place of a checkpoint: the file that belongs to the name of the model
AUTO = 'auto'
_SAM = 'https://dl.fbaipublicfiles.com/segment_anything'
# name -> (URL, SHA-256) of the files that the authors of Segment Anything and MobileSAM have released
RELEASED = {
    'vit_b': (
        f'{_SAM}/sam_vit_b_01ec64.pth',
        'ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912',
    ),
    'vit_l': (
        f'{_SAM}/sam_vit_l_0b3195.pth',
        '3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622',
    ),
    'vit_h': (
        f'{_SAM}/sam_vit_h_4b8939.pth',
        'a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e',
    ),
    'vit_t': (
        'https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt',
        '6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f',
    ),
}


def packaged_file(entry: PackagedWeights) -> str:
    """Return the path of a file in the package, after a check of its checksum.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    path = FOLDER / entry.file
    hint = 'pip install --force-reinstall --no-deps mmssl, or git checkout in a clone, brings it back'
    if not path.is_file():
        raise CheckpointError(f'{path} of the package is missing; {hint}')
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    if checksum != entry.sha256:
        raise CheckpointError(
            f'{path} has the SHA-256 {checksum[:12]}..., expected {entry.sha256[:12]}...; {hint}'
        )
    return str(path)


def automatic_file(model: str) -> str:
    """Return the checkpoint of a model by its name: a file in the package, or a released file.

    A released file is downloaded unless it is in torch's folder for checkpoints.

    Args:
        model: Name of weights in the package, of their config, or of a released model.

    Raises:
        ValueError: There are no such weights.
        CheckpointError: The file in the package is missing or damaged, or the download has another checksum.
        OSError: The download has failed.
    """
    entry = find_packaged(model)
    if entry is not None:
        return packaged_file(entry)
    if model not in RELEASED:
        names = [*packaged_weights(), *RELEASED]
        raise ValueError(
            f'no weights are known for {model!r}: {AUTO!r} is for {", ".join(names)}; give a file'
            f'{nearest(model, names)}'
        )
    url, sha256 = RELEASED[model]
    return download(url, cache_path(url), sha256, alternative='--model sam-mini, which is in the package')


def in_float32(weights: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """Return weights of a file in the package in float32, so that loading need not report the cast.

    Args:
        weights: Tensors by name; those of other files are returned as they are.
        checkpoint: The file.
    """
    if Path(checkpoint).parent != FOLDER:
        return dict(weights)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
