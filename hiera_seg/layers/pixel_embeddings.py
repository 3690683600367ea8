"""Compute embeddings only at the pixels where a loss reads them."""

from typing import NamedTuple

from torch import Tensor, nn


class PixelEmbeddings(NamedTuple):
    """The embeddings of a network without context, such as 1x1 convolutions, not yet computed.

    Attributes:
        features: (B, C, h, w) float.
        network: maps (B, C, h, w) to (B, D, h, w), each pixel by itself.
    """

    features: Tensor
    network: nn.Module

    def at(self, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return the embeddings (S, D) of some pixels, given by int64 (S,) indices."""
        pixels = self.features[image, :, row, column]
        # As one image of one column: many images of one pixel would be convolved one by one
        return self.network(pixels.t()[None, :, :, None])[0, :, :, 0].t()

    def dense(self) -> Tensor:
        """Return the embeddings (B, D, h, w) of all pixels."""
        return self.network(self.features)
