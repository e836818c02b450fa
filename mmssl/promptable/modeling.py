"""The parts of the model under the names and with the signatures of ``segment_anything.modeling``."""

from collections.abc import Callable, Sequence

from torch import nn

from mmssl.promptable.image_encoder import SAMImageEncoder
from mmssl.promptable.mask_decoder import SAMMaskDecoder
from mmssl.promptable.prompt_encoder import SAMPromptEncoder
from mmssl.promptable.sam import SAM
from mmssl.promptable.two_way import TwoWayTransformer

__all__ = ['ImageEncoderViT', 'MaskDecoder', 'PromptEncoder', 'Sam', 'TwoWayTransformer']

Sam = SAM
MaskDecoder = SAMMaskDecoder
PromptEncoder = SAMPromptEncoder


class ImageEncoderViT(SAMImageEncoder):
    """:class:`SAMImageEncoder` with the defaults of the official class, not those of the released models.

    Args:
        img_size: As in :class:`SAMImageEncoder`, like all that is not listed here.
        norm_layer: Makes the layer norms of the blocks: ``nn.LayerNorm``, or a partial of it with ``eps``.
        act_layer: Class of the activation in the MLPs.
        rel_pos_zero_init: Has no effect, as in the official class: the tables always begin with zeros.

    Raises:
        ValueError: Another norm.
    """

    def __init__(  # noqa: PLR0913  the arguments of the official class
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
    ):
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            out_chans,
            qkv_bias,
            use_abs_pos,
            use_rel_pos,
            window_size,
            global_attn_indexes,
        )
        norm = norm_layer(embed_dim)
        if not isinstance(norm, nn.LayerNorm):
            raise ValueError(f'norm_layer makes {type(norm).__name__}; give nn.LayerNorm or a partial of it')
        for block in self.blocks:
            block.norm1.eps = norm.eps
            block.norm2.eps = norm.eps
            block.mlp.act = act_layer()
