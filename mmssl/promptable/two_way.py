"""The two-way transformer of the mask decoder (Segment Anything, arXiv:2304.02643, appendix A).

:mod:`mmssl.promptable.fast.folded_attention` computes the same without projecting the image for every prompt.
"""

from torch import Tensor, nn

from mmssl.promptable.attention import Attention
from mmssl.promptable.common import MLPBlock


class TwoWayAttentionBlock(nn.Module):
    """Self-attention of tokens, attention to the image, an MLP, and attention from the image to the tokens.

    Args:
        embedding_dim: Number of channels C.
        num_heads: Number of heads.
        mlp_dim: Number of hidden channels of the MLP.
        activation: Class of its activation.
        attention_downsample_rate: Channel reduction of the attention between tokens and image.
        skip_first_layer_pe: The tokens are positional encodings already: none is added, and the
            self-attention has no residual connection.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ):
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.skip_first_layer_pe = skip_first_layer_pe

    def attend_to_tokens(self, queries: Tensor, query_pe: Tensor, valid: Tensor | None = None) -> Tensor:
        """Self-attention of the prompt tokens and its norm; arguments as in :meth:`forward`."""
        if self.skip_first_layer_pe:
            return self.norm1(self.self_attn(queries, queries, queries, valid))
        q = queries + query_pe
        return self.norm1(queries + self.self_attn(q, q, queries, valid))

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update prompt tokens and image tokens.

        Args:
            queries: (P, T, C) prompt tokens.
            keys: (P, L, C) image tokens.
            query_pe: (P, T, C) positional encoding of the prompt tokens.
            key_pe: (P, L, C) or (1, L, C), positional encoding of the image tokens.
            valid: (P, T) bool, False for tokens that only pad; None if there are none.
        """
        queries = self.attend_to_tokens(queries, query_pe, valid)
        attended = self.cross_attn_token_to_image(queries + query_pe, keys + key_pe, keys)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))
        attended = self.cross_attn_image_to_token(keys + key_pe, queries + query_pe, queries, valid)
        return queries, self.norm4(keys + attended)


class TwoWayTransformer(nn.Module):
    """Blocks of two-way attention and a final attention of the tokens to the image.

    Args:
        depth: Number of blocks.
        embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate: Arguments of
            :class:`TwoWayAttentionBlock`.
    """

    def __init__(
        self,
        depth: int = 2,
        embedding_dim: int = 256,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ):
        super().__init__()
        if depth < 1:
            raise ValueError(f'depth={depth} of a two-way transformer must be at least 1')
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim, num_heads, mlp_dim, activation, attention_downsample_rate, index == 0
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, num_heads, attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(
        self,
        image_embedding: Tensor,
        image_pe: Tensor,
        point_embedding: Tensor,
        point_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Let prompt tokens and image attend to each other.

        Args:
            image_embedding: (P, C, h, w).
            image_pe: (P, C, h, w) or (1, C, h, w), positional encoding of the image.
            point_embedding: (P, T, C) prompt tokens, which are their own positional encoding.
            point_valid: (P, T) bool, False for tokens that only pad; None if there are none.

        Returns:
            Prompt tokens (P, T, C) and image tokens (P, h * w, C).
        """
        keys = image_embedding.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries, keys, point_embedding, key_pe, point_valid)
        attended = self.final_attn_token_to_image(queries + point_embedding, keys + key_pe, keys)
        return self.norm_final_attn(queries + attended), keys
