"""A backbone and what the fine-tuning recipes need to know about it."""

from dataclasses import dataclass, field
from typing import Any

from mmssl.apis.finetune_images import ImageSettings


@dataclass
class Backbone:
    """A backbone for a task.

    Attributes:
        settings: Its config.
        channels: Channels of the maps that it returns.
        strides: Their strides in pixels.
        image_size: Side of the images it was pre-trained on; None if any size is as good.
        kind: 'cnn', 'vit' for one map size, 'swin' for transformers with stages.
        num_stages: Number of stages or layers, all of which ``frozen_stages`` freezes.
        checkpoint: Absolute path of its weights; None for random ones.
        images: How images that are not 8-bit RGB are read; None for those.
    """

    settings: dict[str, Any]
    channels: list[int]
    strides: list[int] = field(default_factory=lambda: [4, 8, 16, 32])
    image_size: int | None = None
    kind: str = 'cnn'
    num_stages: int = 4
    checkpoint: str | None = None
    images: ImageSettings | None = None

    @property
    def is_vit(self) -> bool:
        """Whether all its maps have one stride."""
        return self.kind == 'vit'

    @property
    def is_pretrained(self) -> bool:
        """Whether it starts from a checkpoint."""
        return self.checkpoint is not None
