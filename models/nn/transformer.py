"""Transformer encoder layers whose heads and feed-forward units can be narrowed.

Weights are laid out so that keeping the first heads, or the first units, is one leading slice: the
query, key and value rows of a group of heads lie together. Slices are views. Every width follows
from the call. Inputs are packed (`models.nn.ragged`), so nothing is computed for padding.

One layer covers post-norm encoders (BERT, RoBERTa, DistilBERT, MPNet, MiniLM) and pre-norm ones
with rotary positions and grouped keys (StarCoder2, ModernBERT).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.architecture import Activation, TransformerConfig
from models.nn.layers import SlimLinear
from models.nn.positions import relative_buckets, rotary_tables, rotate
from models.nn.quantized import Roundable, bytes_of, linear, linear_bytes
from models.nn.ragged import Layout, Ragged

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}

Place: TypeAlias = Literal["query", "key", "value", "out", "up", "gate", "down"]
PLACES: tuple[Place, ...] = get_args(Place)
Plus: TypeAlias = Callable[[Place, Tensor, Tensor], Tensor]
"""Of a linear map of a layer: its place, what it takes, [tokens, in], and what it gives, [tokens,
...], to what stands for the latter: what an adapter makes of it, for example."""


def _nothing(_: Place, taken: Tensor, given: Tensor) -> Tensor:
    return given


def make_norm(config: TransformerConfig) -> nn.LayerNorm:
    """Return a layer norm over the residual stream."""
    return nn.LayerNorm(config.hidden, config.norm_eps, bias=config.norm_bias)


class Embedding(nn.Module):
    """Token embeddings, plus learned positions where there are any.

    Constant terms of the original model (its type embedding, its position offset) are folded into
    the position table when a checkpoint is read.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.hidden)
        learned = config.positions != "rotary"
        self.position = nn.Embedding(config.max_positions, config.hidden) if learned else None
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()

    def forward(self, tokens: Ragged) -> Ragged:
        """Map token ids to vectors of shape [tokens, hidden]."""
        x = self.token(tokens.values)
        if self.position is not None:
            x = x + self.position(tokens.layout.positions)
        return tokens.replace(self.norm(x))


class Attention(Roundable):
    """Multi-head attention over packed rows, with the leading groups of heads."""

    linears: ClassVar[dict[str, str]] = {"qkv": "qkv_steps"}
    qkv_steps: nn.Parameter | None
    cos: Tensor
    sin: Tensor

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.window = None if config.is_global(layer) else config.window
        rows = (config.group + 2) * config.head_dim  # queries, then the key, then the value
        self.qkv = nn.Parameter(torch.empty(config.kv_heads, rows, config.hidden))
        nn.init.normal_(self.qkv, std=0.02)
        self.register_parameter("qkv_steps", None)
        self.qkv_bias = (
            nn.Parameter(torch.zeros(config.kv_heads, rows)) if config.attention_bias else None
        )
        inner = config.heads * config.head_dim
        self.out = SlimLinear(inner, config.hidden, bias=config.attention_bias)
        self.relative_bias: nn.Parameter | None = None
        if config.positions == "relative":
            self.relative_bias = nn.Parameter(torch.zeros(config.relative_buckets, config.heads))
        if config.positions == "rotary":
            theta = config.rotary_theta if config.is_global(layer) else config.local_theta
            cos, sin = rotary_tables(config.max_positions, config.head_dim, theta)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Ragged, groups: int, plus: Plus = _nothing) -> Tensor:
        """Attend with the first ``groups`` groups of heads, up to the output map.

        Args:
            x: Values of shape [tokens, hidden].
            groups: 1..kv_heads.
            plus: Changes queries, keys and values.

        Returns:
            Shape [tokens, groups * group * head_dim].
        """
        config, layout = self.config, x.layout
        bias, steps = (
            None if whole is None else whole[:groups].flatten()
            for whole in (self.qkv_bias, self.qkv_steps)
        )
        qkv = linear(x.values, self.qkv[:groups].flatten(0, 1), bias, steps)
        qkv = qkv.view(-1, groups, config.group + 2, config.head_dim)
        query = plus("query", x.values, qkv[:, :, : config.group].flatten(1, 2))
        key = plus("key", x.values, qkv[:, :, config.group])
        value = plus("value", x.values, qkv[:, :, config.group + 1])
        if config.positions == "rotary":
            cos, sin = self.cos[layout.positions, None], self.sin[layout.positions, None]
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        parts = [
            self._attend(block, groups, query[tokens], key[tokens], value[tokens])
            for tokens, block in layout.blocks
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend(
        self, layout: Layout, groups: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend within each row; from [tokens, heads, head_dim] to [tokens, inner]."""
        # [rows, heads, longest, head_dim]
        q, k, v = (layout.pad(part).transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self._mask(layout, groups), enable_gqa=self.config.group > 1
        )
        return layout.unpad(attended.transpose(1, 2)).flatten(1)

    def _mask(self, layout: Layout, groups: int) -> Tensor | None:
        mask = layout.mask(self.config.causal, self.window)
        if self.relative_bias is None:
            return mask
        place = torch.arange(layout.longest, device=layout.device)
        buckets = relative_buckets(place[None, :] - place[:, None], self.config.relative_buckets)
        bias = self.relative_bias[buckets][..., :groups].permute(2, 0, 1)[None]
        return bias if mask is None else bias.masked_fill(~mask, -torch.inf)

    def macs(self, groups: int, length: int) -> int:
        """Return the multiply-accumulates of one row, attention products included."""
        config = self.config
        inner = groups * config.group * config.head_dim
        rows = groups * (config.group + 2) * config.head_dim
        products = 2 * length * inner
        return length * (rows * config.hidden + products + inner * config.hidden)

    def bytes(self, groups: int, bits: int) -> int:
        """Return the bytes of the weights up to the output map, in 8 or 32 bits."""
        config = self.config
        rows = groups * (config.group + 2) * config.head_dim
        biases = 0 if self.qkv_bias is None else 4 * rows
        places = (self.relative_bias, *self.buffers())
        tables = sum(one.nbytes for one in places if one is not None)
        return linear_bytes(config.hidden, rows, bits) + biases + tables


class FeedForward(nn.Module):
    """Two linear layers around an activation, with the leading units."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = SlimLinear(config.hidden, config.ffn, bias=config.ffn_bias)
        self.gate = (
            SlimLinear(config.hidden, config.ffn, bias=config.ffn_bias) if config.gated else None
        )
        self.down = SlimLinear(config.ffn, config.hidden, bias=config.ffn_bias)
        self.activation = _ACTIVATIONS[config.activation]
        self.has_bias = config.ffn_bias

    def forward(self, x: Tensor, units: int, plus: Plus = _nothing) -> Tensor:
        """Map [tokens, hidden] to the first units' values, [tokens, units]: up to ``down``."""
        inner = plus("up", x, self.up(x, units))
        if self.gate is None:
            return self.activation(inner)
        return self.activation(plus("gate", x, self.gate(x, units))) * inner

    def macs(self, units: int, length: int) -> int:
        """Return the multiply-accumulates of one row."""
        return length * units * self.up.in_features * (2 if self.gate is None else 3)

    def bytes(self, units: int, bits: int) -> int:
        """Return the bytes of the weights up to ``down``, in 8 or 32 bits."""
        maps = 1 if self.gate is None else 2
        return maps * self.up.bytes(self.up.in_features, units, bits)


class Layer(nn.Module):
    """Attention and feed-forward with residual sums and norms."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.is_post = config.norm == "post"
        self.attention = Attention(config, layer)
        self.ffn = FeedForward(config)
        has_norm = self.is_post or layer > 0 or config.first_attention_norm
        self.attention_norm = make_norm(config) if has_norm else nn.Identity()
        self.ffn_norm = make_norm(config)

    def forward(
        self,
        groups: int,
        units: int,
        x: Ragged,
        out: nn.Module | None = None,
        down: nn.Module | None = None,
        plus: Plus = _nothing,
    ) -> Ragged:
        """Map values of shape [tokens, hidden] with the first groups of heads and units.

        Args:
            groups: Groups of heads, 1..kv_heads.
            units: Feed-forward units, 1..ffn.
            x: Packed rows.
            out: Output map of attention, from the heads there are; None for the layer's own.
            down: Output map of the feed-forward part, likewise.
            plus: Changes what each linear map gives.
        """
        attended = self.attention(self.attention_input(x), groups, plus)
        return self.finish(units, x, attended, out, down, plus)

    def attention_input(self, x: Ragged) -> Ragged:
        """Return what attention takes: values of shape [tokens, hidden]."""
        return x if self.is_post else x.replace(self.attention_norm(x.values))

    def finish(
        self,
        units: int,
        x: Ragged,
        attended: Tensor,
        out: nn.Module | None = None,
        down: nn.Module | None = None,
        plus: Plus = _nothing,
    ) -> Ragged:
        """Return what a call does, from what attention gave: shape [tokens, inner]."""
        out, down = out or self.attention.out, down or self.ffn.down
        h = x.values + plus("out", attended, out(attended))
        if self.is_post:
            h = self.attention_norm(h)
        inner = self.ffn(h if self.is_post else self.ffn_norm(h), units, plus)
        h = h + plus("down", inner, down(inner))
        return x.replace(self.ffn_norm(h) if self.is_post else h)

    def macs(self, groups: int, units: int, length: int) -> int:
        """Return the multiply-accumulates of one row."""
        return self.attention.macs(groups, length) + self.ffn.macs(units, length)

    def bytes(
        self,
        groups: int,
        units: int,
        bits: int,
        out: SlimLinear | None = None,
        down: SlimLinear | None = None,
    ) -> int:
        """Return the bytes of the weights of the first groups of heads and units.

        Args:
            groups: As for a call.
            units: Likewise.
            bits: Of the linear weights, 8 or 32.
            out: As for a call.
            down: Likewise.
        """
        config = self.attention.config
        inner = groups * config.group * config.head_dim
        return (
            self.attention.bytes(groups, bits)
            + (out or self.attention.out).bytes(inner, config.hidden, bits)
            + self.ffn.bytes(units, bits)
            + (down or self.ffn.down).bytes(units, config.hidden, bits)
            + bytes_of(self.attention_norm, self.ffn_norm)
        )


def layers_of(model: Any) -> list[Layer]:
    """Return the layers of a model that keeps them in order in ``layers``; ValueError if none."""
    found = [layer for layer in getattr(model, "layers", ()) if isinstance(layer, Layer)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no transformer layers")
    return found
