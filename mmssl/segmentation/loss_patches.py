"""Patches of mmseg's cross entropies, which fail, or weigh the wrong pixels, for some settings.

Applied when :mod:`mmssl.segmentation` is imported; ``MMSSL_NO_PATCH=1`` leaves them out.
"""

from mmseg.models.losses import cross_entropy_loss
from torch import Tensor

from mmssl.hosts.patches import patches_are_off
from mmssl.hosts.patching import listed, replace

VERSIONS = 'mmseg 1.4.2 (OneDL)'
LOSS_MODULE = cross_entropy_loss.__name__
# the modules that hold the functions under their names
MODULES = (LOSS_MODULE, 'mmseg.models.losses')


def apply() -> None:
    """Apply the patches of this module once, unless ``MMSSL_NO_PATCH=1`` is set."""
    if patches_are_off() or getattr(cross_entropy_loss, '_mmssl_patched', False):
        return
    cross_entropy_loss._mmssl_patched = True
    average_weighted_cross_entropy()
    weigh_classes_of_binary_cross_entropy()
    accept_ignored_binary_labels()


@listed(
    reason='CrossEntropyLoss with class_weight and avg_non_ignore fails: it indexes the known labels by all',
    versions=VERSIONS,
    until='cross_entropy sums the weights of the labels that are not ignored',
)
def average_weighted_cross_entropy() -> None:
    """Divide a weighted cross entropy by the weights of the labels that are not ignored, as PyTorch does."""

    def make(original):
        def cross_entropy(  # noqa: PLR0913  mmseg's signature
            pred: Tensor,
            label: Tensor,
            weight: Tensor | None = None,
            class_weight: Tensor | None = None,
            reduction: str = 'mean',
            avg_factor=None,
            ignore_index: int = -100,
            avg_non_ignore: bool = False,
        ) -> Tensor:
            if class_weight is not None and avg_factor is None and reduction == 'mean':
                avg_factor = class_weight[label[label != ignore_index]].sum()
            return original(
                pred, label, weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore
            )

        return cross_entropy

    replace('cross_entropy', MODULES, make)


@listed(
    reason='with use_sigmoid, class_weight is applied to the columns of the image instead of the classes',
    versions=VERSIONS,
    until='binary_cross_entropy gives class_weight the shape (C, 1, 1) for maps',
)
def weigh_classes_of_binary_cross_entropy() -> None:
    """Apply ``class_weight`` to the channels of maps (B, C, H, W)."""

    def make(original):
        def binary_cross_entropy(pred: Tensor, label: Tensor, *args, class_weight=None, **kwargs) -> Tensor:
            if class_weight is not None:
                channels = pred.shape[1]
                if len(class_weight) != channels:
                    raise ValueError(
                        f'class_weight has {len(class_weight)} numbers for {channels} channels of scores; '
                        'with use_sigmoid=True each channel needs one, the weight of its positive pixels'
                    )
                # a single channel is squeezed by the original
                spatial = pred.dim() - 2 if channels > 1 else 0
                class_weight = class_weight.view(-1, *[1] * spatial)
            return original(pred, label, *args, class_weight=class_weight, **kwargs)

        return binary_cross_entropy

    replace('binary_cross_entropy', MODULES, make)


@listed(
    reason='with one channel, a batch whose pixels are all ignored ends in the maximum of no numbers',
    versions=VERSIONS,
    until='binary_cross_entropy returns 0 if no label is known',
)
def accept_ignored_binary_labels() -> None:
    """Return a loss of 0, with gradients, for one channel and only ignored labels."""

    def make(original):
        def binary_cross_entropy(
            pred: Tensor,
            label: Tensor,
            weight: Tensor | None = None,
            reduction: str = 'mean',
            *args,
            ignore_index: int = -100,
            **kwargs,
        ) -> Tensor:
            if pred.shape[1] == 1 and bool((label == ignore_index).all()):
                zeros = pred.squeeze(1) * 0
                return zeros if reduction == 'none' else zeros.sum()
            return original(pred, label, weight, reduction, *args, ignore_index=ignore_index, **kwargs)

        return binary_cross_entropy

    replace('binary_cross_entropy', MODULES, make)
