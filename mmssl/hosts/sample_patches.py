"""A patch of mmengine's data samples."""

from typing import Any

from mmssl.hosts.patching import listed


@listed(
    reason='data samples have no pin_memory: with pinned loaders their boxes and masks, unlike the images, '
    'are copied to the GPU from pageable memory, for which the CPU waits',
    versions='mmengine 0.10.7 to 0.10.12 (OneDL)',
    until='BaseDataElement has pin_memory',
)
def pin_data_samples() -> None:
    """Give data samples the method that torch's loaders call to pin a batch."""
    from mmengine.structures import BaseDataElement

    if not hasattr(BaseDataElement, 'pin_memory'):
        BaseDataElement.pin_memory = pinned


def pinned(sample: Any, device: Any = None) -> Any:
    """Return a copy of a data sample with its tensors in pinned memory."""
    copied = sample.new()
    for name, value in sample.items():
        if hasattr(value, 'pin_memory'):
            value = value.pin_memory()
        copied.set_data({name: value})
    return copied
