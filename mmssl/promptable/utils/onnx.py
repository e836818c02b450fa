""":class:`SamOnnxModel` in the official module, for scripts that trace it."""

import torch
from torch import Tensor

from mmssl.promptable.export import DecoderGraph
from mmssl.promptable.sam import SAM

__all__ = ['SamOnnxModel']


class SamOnnxModel(DecoderGraph):
    """:class:`mmssl.promptable.export.DecoderGraph` with the arguments of the official class.

    Args:
        model: The segmenter.
        return_single_mask: Return the mask with the best score instead of all masks.
        use_stability_score: Score masks by their stability instead of the predicted IoU.
        return_extra_metrics: Also return the stability and the area of the masks.
    """

    def __init__(
        self,
        model: SAM,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ):
        super().__init__(model, not return_single_mask, use_stability_score, return_extra_metrics)
        self.mask_decoder = model.mask_decoder
        self.img_size = model.image_encoder.img_size
        self.return_single_mask = return_single_mask

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """(2,) int64, height and width of the resized image of a size (2,)."""
        size = input_image_size.to(torch.float32)
        return (size * (longest_side / size.max()) + 0.5).floor().to(torch.int64)

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """See :meth:`mmssl.promptable.export.DecoderGraph.forward`."""
        return super().forward(
            image_embeddings, point_coords, point_labels, mask_input, has_mask_input, orig_im_size
        )
