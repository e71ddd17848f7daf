"""One linear map in the place of a transformer layer."""

from __future__ import annotations

from torch import nn

from models.nn.architecture import TransformerConfig
from models.nn.layers import SlimLinear
from models.nn.quantized import bytes_of
from models.nn.ragged import Ragged
from models.nn.transformer import Layer


class LinearLayer(nn.Module):
    """In place of a layer: one linear map per token, and the layer's own norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear = SlimLinear(config.hidden, config.hidden)

    def forward(self, layer: Layer, x: Ragged) -> Ragged:
        """Map values of shape [tokens, hidden] to what stands for the layer's output."""
        if layer.is_post:
            return x.replace(layer.ffn_norm(self.linear(x.values)))
        return x.replace(x.values + self.linear(layer.attention_norm(x.values)))

    def macs(self, length: int) -> int:
        """Return the multiply-accumulates of one row."""
        return length * self.linear.weight.numel()

    def bytes(self, layer: Layer, bits: int) -> int:
        """Return the bytes of the map and of the layer's norm, in 8 or 32 bits."""
        hidden = self.linear.in_features
        norm = layer.ffn_norm if layer.is_post else layer.attention_norm
        return self.linear.bytes(hidden, hidden, bits) + bytes_of(norm)
