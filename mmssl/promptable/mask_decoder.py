"""The mask decoder of Segment Anything (arXiv:2304.02643, appendix A, 'Lightweight mask decoder')."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.ops.switch import always, cpu_inference, eager, fast_form
from mmssl.promptable.checks import check_decoder_inputs, check_decoder_outputs
from mmssl.promptable.common import MLP, LayerNorm2d, reset_weights
from mmssl.promptable.two_way import TwoWayTransformer
from mmssl.registry import MODELS


@MODELS.register_module()
class SAMMaskDecoder(BaseModule):
    """Predict masks and their IoU from an image embedding and encoded prompts.

    Names and arguments are those of the official ``MaskDecoder``.

    Args:
        transformer_dim: Number of channels C.
        transformer: A module with the signature of :class:`TwoWayTransformer`, or its arguments.
        num_multimask_outputs: Number of masks for an ambiguous prompt.
        iou_head_depth, iou_head_hidden_dim: Layers and hidden channels of the MLP that predicts IoU.
        activation: Class of the activations between the upscaling layers.
    """

    # forward takes image_index and sparse_valid, see mmssl.promptable.protocols
    batches_images = True

    def __init__(
        self,
        transformer_dim: int = 256,
        transformer: dict | nn.Module | None = None,
        num_multimask_outputs: int = 3,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
        activation: type[nn.Module] = nn.GELU,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if transformer is None or isinstance(transformer, dict):
            transformer = TwoWayTransformer(**{'embedding_dim': transformer_dim, **(transformer or {})})
        if transformer.embedding_dim != transformer_dim or transformer_dim % 8:
            raise ValueError(
                f'transformer_dim={transformer_dim} must be a multiple of 8 and the width of the '
                f'transformer, which is {transformer.embedding_dim}'
            )
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, 2, 2),
            LayerNorm2d(transformer_dim // 4),
            activation(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, 2, 2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3)
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth
        )

    def init_weights(self) -> None:
        """Reset all weights; an ``init_cfg`` of type 'Pretrained' is loaded afterwards."""
        reset_weights(self)
        super().init_weights()

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        image_index: Tensor | None = None,
        sparse_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of P prompts.

        Args:
            image_embeddings: (B, C, h, w), one for all prompts or one for each prompt (B = P); any number
                with ``image_index``.
            image_pe: (1, C, h, w), positional encoding of the image.
            sparse_prompt_embeddings: (P, T, C), tokens of points and boxes.
            dense_prompt_embeddings: (P, C, h, w), embedded masks; (1, C, h, w) if all prompts share it
                because none has a mask.
            multimask_output: Return the masks for ambiguous prompts instead of the single mask.
            image_index: (P,) int64, the image of each prompt.
            sparse_valid: (P, T) bool, False for tokens that only pad a prompt.

        Returns:
            Logits (P, M, 4h, 4w) and predicted IoU (P, M); M is ``num_multimask_outputs`` or 1.

        Raises:
            ValueError: Shapes that do not fit together; in evaluation mode also NaN or infinite results.
        """
        check_decoder_inputs(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, image_index
        )
        masks, iou_pred = self.predict_masks(
            image_embeddings,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            slice(1, None) if multimask_output else slice(0, 1),
            image_index,
            sparse_valid,
        )
        if eager() and not self.training:  # in training the optimizer wrapper reports NaN
            check_decoder_outputs(masks, iou_pred)
        return masks, iou_pred

    @fast_form('mmssl.promptable.fast.cpu_decoder:predict_masks', when=cpu_inference)
    @fast_form('mmssl.promptable.fast.batched_decoder:predict_masks', when=always)
    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        mask_slice: slice = slice(None),
        image_index: Tensor | None = None,
        sparse_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks and IoU of the mask tokens in ``mask_slice``; see :meth:`forward`."""
        tokens, valid = self.add_output_tokens(sparse_prompt_embeddings, sparse_valid)

        # one image for each prompt
        src = image_embeddings if image_index is None else image_embeddings[image_index]
        src = (src + dense_prompt_embeddings).expand(tokens.shape[0], -1, -1, -1)
        p, c, h, w = src.shape

        if valid is None:
            hs, src = self.transformer(src, image_pe, tokens)
        else:
            hs, src = self.transformer(src, image_pe, tokens, valid)
        iou_token_out = hs[:, 0]
        mask_tokens_out = hs[:, 1 : 1 + self.num_mask_tokens]

        upscaled_embedding = self.output_upscaling(src.transpose(1, 2).reshape(p, c, h, w))
        hyper_in = torch.stack(
            [mlp(mask_tokens_out[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (hyper_in @ upscaled_embedding.flatten(2)).unflatten(2, (4 * h, 4 * w))
        iou_pred = self.iou_prediction_head(iou_token_out)
        return masks[:, mask_slice], iou_pred[:, mask_slice]

    def add_output_tokens(self, sparse: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Put the IoU token and the mask tokens in front of tokens (P, T, C) with validity (P, T)."""
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(
            sparse.shape[0], -1, -1
        )
        if valid is not None:
            valid = torch.cat([valid.new_ones(output_tokens.shape[:2]), valid], dim=1)
        return torch.cat([output_tokens, sparse.to(output_tokens.dtype)], dim=1), valid
