"""Implement Mask2Former's transformer decoder, whose queries attend within their own masks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hiera_seg.layers import sine_positions


class QueryPrediction(NamedTuple):
    """The predictions of one layer for each query.

    Attributes:
        class_logits: (B, Q, K).
        mask_logits: (B, Q, h, w) at the stride of the mask features.
    """

    class_logits: Tensor
    mask_logits: Tensor


class Attention(nn.Module):
    """Multi-head attention; the result is added to the queries and normalised."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Return the queries x (B, Q, dim) after attending to memory (B, S, dim).

        Positions (Q, dim) and (S, dim) are added to queries and keys, not to values. `allowed`,
        bool (B, 1, Q, S), is True where a query may attend; None: everywhere.
        """
        heads = (self.num_heads, -1)
        query = self.query(x + query_positions).unflatten(-1, heads).transpose(1, 2)
        key = self.key(memory + memory_positions).unflatten(-1, heads).transpose(1, 2)
        value = self.value(memory).unflatten(-1, heads).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return self.norm(x + self.out(found.transpose(1, 2).flatten(2)))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward network."""

    def __init__(self, dim: int, num_heads: int, dim_feedforward: int):
        super().__init__()
        self.cross_attention = Attention(dim, num_heads)
        self.self_attention = Attention(dim, num_heads)
        self.expand = nn.Linear(dim, dim_feedforward)
        self.contract = nn.Linear(dim_feedforward, dim)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(
        self,
        x: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        allowed: Tensor,
    ) -> Tensor:
        """Arguments as in :meth:`Attention.forward`."""
        x = self.cross_attention(x, query_positions, memory, memory_positions, allowed)
        x = self.self_attention(x, query_positions, x, query_positions)
        return self.norm(x + self.contract(F.relu(self.expand(x))))


class MaskedAttentionDecoder(nn.Module):
    """Learned queries attend to multi-scale maps within the masks that the previous layer predicts.

    Each query predicts class logits and a mask, the product of its mask embedding and the mask
    features of each pixel (Cheng et al., Mask2Former, CVPR 2022).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        mask_channels: int,
        num_classes: int,
        num_queries: int = 100,
        hidden_dim: int = 256,
        num_heads: int = 8,
        dim_feedforward: int = 2048,
        num_layers: int = 9,
    ):
        """
        Args:
            in_channels: channels of each multi-scale map; the layers attend to the maps in turn.
            mask_channels: channels of the mask features.
            num_classes: number of class logits per query.
            num_queries: number of queries.
            hidden_dim: channels of queries, a multiple of 4 and of ``num_heads``.
            num_heads: number of heads of all attentions.
            dim_feedforward: channels inside the feed-forward networks.
            num_layers: number of layers, 1 or more.
        """
        super().__init__()
        read = in_channels[:num_layers]  # DDP fails on unused projections
        self.input_projections = nn.ModuleList(
            nn.Identity() if channels == hidden_dim else nn.Conv2d(channels, hidden_dim, 1)
            for channels in read
        )
        self.level_embedding = nn.Embedding(len(read), hidden_dim)
        self.query_features = nn.Embedding(num_queries, hidden_dim)
        self.query_positions = nn.Embedding(num_queries, hidden_dim)
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, num_heads, dim_feedforward) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_predictor = nn.Linear(hidden_dim, num_classes)
        self.mask_embedding = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, mask_channels),
        )

    def forward(
        self, multi_scale: Sequence[Tensor], mask_features: Tensor, *, all_layers: bool = False
    ) -> list[QueryPrediction]:
        """
        Args:
            multi_scale: maps (B, C, h, w), one per element of ``in_channels``.
            mask_features: (B, mask_channels, H, W).
            all_layers: whether to predict after each layer and before the first, instead of only
                after the last.

        Returns:
            The predictions, in the order of the layers.
        """
        batch = mask_features.shape[0]
        query_positions = self.query_positions.weight
        multi_scale = multi_scale[: len(self.input_projections)]
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in multi_scale]
        memories, positions, small_mask_features = [], [], []
        for level, (x, size) in enumerate(zip(multi_scale, sizes, strict=True)):
            x = self.input_projections[level](x).flatten(2).transpose(1, 2)
            memories.append(x + self.level_embedding.weight[level])
            # Under autocast, x has a lower precision, which would round the positions.
            dtype = query_positions.dtype
            positions.append(sine_positions(*size, x.shape[-1], device=x.device).to(dtype))
            # Resizing commutes with the product with a mask embedding, so masks at the size of a
            # level are computed from mask features of that size
            small_mask_features.append(
                F.interpolate(
                    mask_features.detach(), size=size, mode="bilinear", align_corners=False
                )
            )

        x = self.query_features.weight.expand(batch, -1, -1)
        predictions = []
        for i, layer in enumerate(self.layers):
            level = i % len(memories)
            allowed = self._allowed(x, small_mask_features[level])
            if all_layers:
                predictions.append(self._predict(x, mask_features))
            x = layer(x, query_positions, memories[level], positions[level], allowed)
        predictions.append(self._predict(x, mask_features))
        return predictions

    def _predict(self, x: Tensor, mask_features: Tensor) -> QueryPrediction:
        x = self.norm(x)
        return QueryPrediction(
            self.class_predictor(x),
            torch.einsum("bqc,bchw->bqhw", self.mask_embedding(x), mask_features),
        )

    def _allowed(self, x: Tensor, mask_features: Tensor) -> Tensor:
        """Return bool (B, 1, Q, S): where a query's mask is on, or everywhere if it is empty.

        The result has no gradient, but no_grad is not used. Versions of torch before the end of
        2025 cache the half-precision copies that autocast makes under no_grad; the weights of
        ``mask_embedding`` would then get no gradient from `_predict` (pytorch issue 65766).
        """
        embedding = self.mask_embedding(self.norm(x))
        inside = torch.einsum("bqc,bchw->bqhw", embedding, mask_features).flatten(2) >= 0
        return (inside | ~inside.any(-1, keepdim=True))[:, None]
