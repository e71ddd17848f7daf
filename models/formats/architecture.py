"""How the tensors of a public encoder become ours.

Constant terms are folded: row 0 of the type embedding and the position offset into the position
table. The query, key and value rows of each group of heads are laid together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.formats.folder import Fields, Tensors
from models.nn.architecture import TransformerConfig


@dataclass(frozen=True)
class Architecture:
    """How one ``model_type`` is read.

    Attributes:
        config: Function of the fields, whether to be causal (None: as the public model is) and
            the longest input (None: as long as can be).
        prefixes: What task heads put before the encoder's names.
        ignored: Patterns of tensors that are not needed.
        token: Name of the token embedding; the names that follow it are without their ``.weight``.
        position: Of the position embedding.
        types: Of the type embedding.
        embedding_norm: Of the norm after the embeddings.
        final_norm: Of the norm after the last layer.
        relative: Of the distance biases that all layers share.
        layer: Of layer ``{}``, leading the names below.
        qkv: Of the query, key and value projections; one name if they are fused, in thirds.
        out: Of the projection after attention.
        attention_norm: Of the norm at attention.
        up: Of the feed-forward projection; gated: of the fused gate and projection, in halves.
        down: Of the projection back.
        ffn_norm: Of the norm at the feed-forward block.
        offset: Function of the fields: position of the first token in the table.
    """

    config: Callable[[Fields, bool | None, int | None], TransformerConfig]
    prefixes: tuple[str, ...]
    ignored: tuple[str, ...]
    token: str
    layer: str
    qkv: tuple[str, ...]
    out: str
    attention_norm: str
    up: str
    down: str
    ffn_norm: str
    position: str | None = None
    types: str | None = None
    embedding_norm: str | None = None
    final_norm: str | None = None
    relative: str | None = None
    offset: Callable[[Fields], int] = lambda _: 0

    def state(
        self, tensors: Tensors, config: TransformerConfig, fields: Fields
    ) -> dict[str, Tensor]:
        """Return the encoder's tensors under our names; the final norm is ``final_norm``.

        Raises:
            FormatError: If a tensor is missing or of another shape.
        """
        tensors.strip(self.prefixes, f"{self.token}.weight")
        hidden = config.hidden
        state = {
            "embedding.token.weight": tensors.take(
                f"{self.token}.weight", config.vocab_size, hidden
            )
        }
        if self.position:
            offset = self.offset(fields)
            rows = config.max_positions + offset
            table = tensors.take(f"{self.position}.weight", rows, hidden)[offset:]
            if self.types:
                rows = fields.integer("type_vocab_size", 2)
                table = table + tensors.take(f"{self.types}.weight", rows, hidden)[0]
            state["embedding.position.weight"] = table
        for ours, theirs in (
            ("embedding.norm", self.embedding_norm),
            ("final_norm", self.final_norm),
        ):
            if theirs:
                state |= _norm(ours, tensors, theirs, config)
        shared = None
        if self.relative:
            size = (config.relative_buckets, config.heads)
            shared = tensors.take(f"{self.relative}.weight", *size)
        for i in range(config.layers):
            state |= self._layer(i, tensors, config)
            if shared is not None:
                state[f"layers.{i}.attention.relative_bias"] = shared
        return state

    def _layer(self, i: int, tensors: Tensors, config: TransformerConfig) -> dict[str, Tensor]:
        ours, theirs = f"layers.{i}", self.layer.format(i)
        inner, units = config.heads * config.head_dim, config.ffn * (2 if config.gated else 1)
        state = self._qkv(f"{ours}.attention.qkv", tensors, theirs, config)
        out = _linear(tensors, theirs + self.out, (config.hidden, inner), config.attention_bias)
        up = _linear(tensors, theirs + self.up, (units, config.hidden), config.ffn_bias)
        down = _linear(tensors, theirs + self.down, (config.hidden, config.ffn), config.ffn_bias)
        for name, tensor in out.items():
            state[f"{ours}.attention.out.{name}"] = tensor
        for name, tensor in down.items():
            state[f"{ours}.ffn.down.{name}"] = tensor
        for name, tensor in up.items():
            if config.gated:
                # The public half that is activated comes first; ours is called the gate.
                gate, rest = tensor.chunk(2)
                state |= {f"{ours}.ffn.gate.{name}": gate, f"{ours}.ffn.up.{name}": rest}
            else:
                state[f"{ours}.ffn.up.{name}"] = tensor
        if config.norm == "post" or i > 0 or config.first_attention_norm:
            state |= _norm(f"{ours}.attention_norm", tensors, theirs + self.attention_norm, config)
        return state | _norm(f"{ours}.ffn_norm", tensors, theirs + self.ffn_norm, config)

    def _qkv(
        self, ours: str, tensors: Tensors, theirs: str, config: TransformerConfig
    ) -> dict[str, Tensor]:
        """Return [kv_heads, (group + 2) * head_dim, hidden] and its bias."""
        rows = [heads * config.head_dim for heads in (config.heads, *(config.kv_heads,) * 2)]
        if len(self.qkv) == 1:
            name = theirs + self.qkv[0]
            fused = _linear(tensors, name, (sum(rows), config.hidden), config.attention_bias)
            parts = [
                dict(zip(fused, split, strict=True))
                for split in zip(*(torch.split(t, rows) for t in fused.values()), strict=True)
            ]
        else:
            parts = [
                _linear(tensors, theirs + name, (count, config.hidden), config.attention_bias)
                for name, count in zip(self.qkv, rows, strict=True)
            ]
        return {
            ours if kind == "weight" else f"{ours}_bias": torch.cat(
                [part[kind].unflatten(0, (config.kv_heads, -1)) for part in parts], dim=1
            )
            for kind in parts[0]
        }


def _linear(
    tensors: Tensors, name: str, shape: tuple[int, int], has_bias: bool
) -> dict[str, Tensor]:
    found = {"weight": tensors.take(f"{name}.weight", *shape)}
    if has_bias:
        found["bias"] = tensors.take(f"{name}.bias", shape[0])
    return found


def _norm(ours: str, tensors: Tensors, theirs: str, config: TransformerConfig) -> dict[str, Tensor]:
    kinds = ("weight", "bias") if config.norm_bias else ("weight",)
    return {f"{ours}.{kind}": tensors.take(f"{theirs}.{kind}", config.hidden) for kind in kinds}
