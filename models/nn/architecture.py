"""What fixes the architecture of a transformer encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

_MAX_LAYERS = 1000  # these two are not bounded by the size of a tensor
_MAX_POSITIONS = 2**20
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes the encoder's architecture.

    Attributes:
        vocab_size: Rows of the token embedding.
        hidden: Width of the residual stream.
        layers: Number of layers.
        heads: Query heads of a layer.
        kv_heads: Key and value heads; each serves ``heads / kv_heads`` query heads.
        head_dim: Width of a head.
        ffn: Feed-forward units of a layer.
        activation: Of the feed-forward units.
        gated: Whether a second projection multiplies the activated one.
        norm: ``post``: after each residual sum. ``pre``: before each block, and once at the end.
        norm_eps: Added to the variance.
        norm_bias: Whether norms have a bias.
        embedding_norm: Whether embeddings are normalised.
        first_attention_norm: Whether the first layer normalises before attention; ``pre`` only.
        attention_bias: Whether the four attention projections have a bias.
        ffn_bias: Whether the feed-forward projections have one.
        positions: ``absolute``: learned, added to the embeddings. ``rotary``. ``relative``: learned
            biases per head and distance bucket, added to the attention scores.
        max_positions: Longest sequence.
        rotary_theta: Base of the rotary frequencies.
        relative_buckets: Distance buckets; ``relative`` only.
        window: Keys this far away are seen in local layers; None: every layer is global.
        global_every: Of this many layers, the first is global.
        local_theta: Base of the rotary frequencies in local layers.
        causal: Whether tokens see only what is before them.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    activation: Activation = "gelu"
    gated: bool = False
    norm: Literal["post", "pre"] = "post"
    norm_eps: float = 1e-12
    norm_bias: bool = True
    embedding_norm: bool = True
    first_attention_norm: bool = True
    attention_bias: bool = True
    ffn_bias: bool = True
    positions: Literal["absolute", "rotary", "relative"] = "absolute"
    max_positions: int = 512
    rotary_theta: float = 10_000.0
    relative_buckets: int = 32
    window: int | None = None
    global_every: int = 1
    local_theta: float = 10_000.0
    causal: bool = False

    def __post_init__(self) -> None:
        """Refuse an architecture that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        for name, most in (("layers", _MAX_LAYERS), ("max_positions", _MAX_POSITIONS)):
            if (value := getattr(self, name)) > most:
                raise ValueError(f"{name}={value} must be at most {most}")
        sizes = ("vocab_size", "hidden", "layers", "heads", "kv_heads", "head_dim", "ffn")
        for name in (*sizes, "max_positions", "global_every", "relative_buckets", "window"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} must be 1 or more")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for rotary positions")
        if self.norm == "post" and not self.first_attention_norm:
            raise ValueError("first_attention_norm=False needs norm='pre'")
        if self.positions == "relative" and self.relative_buckets % 4:
            raise ValueError(f"relative_buckets={self.relative_buckets} is not a multiple of 4")
        if self.positions == "relative" and self.kv_heads != self.heads:
            raise ValueError("positions='relative' needs kv_heads equal to heads")

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads

    def is_global(self, layer: int) -> bool:
        """Return whether a layer, counted from 0, sees every distance."""
        return self.window is None or layer % self.global_every == 0
