"""The tensors of a subnet's encoder: cut out, and under public names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.exits import Exits
from models.families.headed import Headed
from models.formats.architecture import Architecture
from models.nn.architecture import TransformerConfig


def narrowed(whole: TransformerConfig, depth: int, groups: int, units: int) -> TransformerConfig:
    """Return the configuration of a subnet's encoder."""
    return replace(whole, layers=depth, heads=groups * whole.group, kv_heads=groups, ffn=units)


def sliced(model: Exits | Headed, depth: int, groups: int, units: int) -> dict[str, Tensor]:
    """Return the subnet's tensors under our names, without its exit."""
    inner = groups * model.config.encoder.group * model.config.encoder.head_dim
    cuts = {
        "attention.qkv": (slice(groups),),
        "attention.qkv_bias": (slice(groups),),
        "attention.out.weight": (slice(None), slice(inner)),
        "attention.relative_bias": (slice(None), slice(groups)),
        "ffn.up.weight": (slice(units),),
        "ffn.up.bias": (slice(units),),
        "ffn.gate.weight": (slice(units),),
        "ffn.gate.bias": (slice(units),),
        "ffn.down.weight": (slice(None), slice(units)),
    }
    state = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "layers":
            number, _, inside = rest.partition(".")
            if int(number) >= depth:
                continue
            tensor = tensor[cuts.get(inside, ())]
        if part != "exits":
            state[name] = tensor
    return state


def with_absent_heads(
    state: Mapping[str, Tensor], narrow: TransformerConfig, whole: TransformerConfig
) -> dict[str, Tensor]:
    """Return the tensors with heads of zeros after those that are there."""
    groups = whole.kv_heads - narrow.kv_heads
    columns = groups * whole.group * whole.head_dim
    found = dict(state)
    for name, tensor in state.items():
        if name.endswith("attention.qkv"):
            found[name] = F.pad(tensor, (0, 0, 0, 0, 0, groups))
        elif name.endswith("attention.qkv_bias"):
            found[name] = F.pad(tensor, (0, 0, 0, groups))
        elif name.endswith("attention.out.weight"):
            found[name] = F.pad(tensor, (0, columns))
        elif name.endswith("attention.relative_bias"):
            found[name] = F.pad(tensor, (0, groups))
    return found


def under_public_names(
    public: Architecture, state: Mapping[str, Tensor], config: TransformerConfig
) -> dict[str, Tensor]:
    """Return the tensors under public names: what `Architecture.state` reads, undone."""
    found = {f"{public.token}.weight": state["embedding.token.weight"]}
    if public.position:
        table = state["embedding.position.weight"]
        before = 2 if public.relative else 0  # rows of MPNet's table that no token has
        found[f"{public.position}.weight"] = F.pad(table, (0, 0, before, 0))
    if public.types:
        found[f"{public.types}.weight"] = torch.zeros(2, config.hidden)
    for ours, theirs in (
        ("embedding.norm", public.embedding_norm),
        ("final_norm", public.final_norm),
    ):
        if theirs:
            found |= _renamed(state, ours, theirs)
    for i in range(config.layers):
        ours, theirs = f"layers.{i}", public.layer.format(i)
        found |= _renamed(state, f"{ours}.attention.out", theirs + public.out)
        found |= _renamed(state, f"{ours}.attention_norm", theirs + public.attention_norm)
        found |= _renamed(state, f"{ours}.ffn_norm", theirs + public.ffn_norm)
        found |= _renamed(state, f"{ours}.ffn.down", theirs + public.down)
        up = _renamed(state, f"{ours}.ffn.up", theirs + public.up)
        gate = _renamed(state, f"{ours}.ffn.gate", theirs + public.up)
        # The public half that is activated comes first; ours is called the gate.
        found |= {name: torch.cat((gate[name], up[name])) if gate else up[name] for name in up}
        found |= _split_qkv(public, state, ours, theirs, config)
    if public.relative:
        found[f"{public.relative}.weight"] = state["layers.0.attention.relative_bias"]
    return found


def _renamed(state: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {
        f"{theirs}.{kind}": state[f"{ours}.{kind}"]
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in state
    }


def _split_qkv(
    public: Architecture,
    state: Mapping[str, Tensor],
    ours: str,
    theirs: str,
    config: TransformerConfig,
) -> dict[str, Tensor]:
    """Return queries, keys and values apart, or after one another where they are fused."""
    rows = [heads * config.head_dim for heads in (config.group, 1, 1)]
    found = {}
    for kind, name in (("weight", "attention.qkv"), ("bias", "attention.qkv_bias")):
        if f"{ours}.{name}" not in state:
            continue
        parts = [part.flatten(0, 1) for part in torch.split(state[f"{ours}.{name}"], rows, dim=1)]
        if len(public.qkv) == 1:
            found[f"{theirs}{public.qkv[0]}.{kind}"] = torch.cat(parts)
        else:
            for one, part in zip(public.qkv, parts, strict=True):
                found[f"{theirs}{one}.{kind}"] = part
    return found
