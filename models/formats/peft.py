"""Reads LoRA folders of the PEFT library, and puts their adapters on a trunk.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors``. What its fields say beyond
low-rank factors of the linear maps of a transformer's layers is refused by name.

Source: peft 0.21: ``LoraConfig``, the names of its tensors, and the scale alpha / r, or alpha /
sqrt(r) with ``use_rslora``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models import families
from models.families.adapted import Adapted, AdaptedConfig, sizes
from models.formats.folder import Fields, FormatError, load_tensors
from models.formats.model_types import MODEL_TYPES
from models.nn.architecture import TransformerConfig
from models.nn.low_rank import LowRank, ordered
from models.nn.transformer import PLACES, Place, layers_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

Factors: TypeAlias = Mapping[tuple[int, Place], tuple[Tensor, Tensor]]
"""By layer and linear map: from what it takes, [rank, inputs], and to what it gives, [rank,
outputs], the scale included."""

_FACTOR = re.compile(
    r"(?:base_model\.model\.)?(?P<map>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight"
)
# Each may be missing, null or what stands here; else it would change what is computed.
_REQUIRED: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "trainable_token_indices": ({}, []),
    "layer_replication": ([],),
    "target_parameters": ([],),
    "alora_invocation_tokens": ([],),
    "loftq_config": ({},),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    **dict.fromkeys(("corda_config", "lora_ga_config", "velora_config", "monteclora_config"), ()),
    **dict.fromkeys(("use_bdlora", "arrow_config", "kasa_config"), (False,)),
}
# Followed, or of no matter to what is computed from the tensors that are there.
_HARMLESS = """
    r lora_alpha use_rslora target_modules exclude_modules layers_to_transform layers_pattern
    task_type auto_mapping peft_version base_model_name_or_path revision inference_mode lora_dropout
    megatron_config megatron_core eva_config qalora_group_size ensure_weight_tying runtime_config
"""
_KNOWN = frozenset(_HARMLESS.split())


def read(folder: Path, encoder: TransformerConfig) -> Factors:
    """Read a folder.

    Args:
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.
        encoder: Of the trunk.

    Raises:
        FormatError: If a file is missing, or says something that cannot be expressed exactly.
    """
    fields = Fields.read(folder / CONFIG)
    for name in fields.values:
        if name not in _REQUIRED and name not in _KNOWN and fields.values[name] is not None:
            raise FormatError(f"{fields.path}: field {name!r} is not known, and may change vectors")
    for name, allowed in _REQUIRED.items():
        fields.require(name, *allowed)
    rank = fields.integer("r")
    if rank < 1:
        raise fields.error("r", "1 or more")
    root = rank**0.5 if fields.flag("use_rslora", default=False) else rank
    scale = fields.number("lora_alpha", 8.0) / root
    path = folder / WEIGHTS
    sides = _sides(path, encoder.layers)
    found = {}
    for at, own in sides.items():
        wanted = _shapes(encoder, at[1], rank)
        for side, name, tensor in own:
            if list(tensor.shape) != wanted[side] or not tensor.isfinite().all():
                raise FormatError(
                    f"{path}: tensor {name!r} has shape {list(tensor.shape)}, needed are "
                    f"{wanted[side]} finite numbers"
                )
        factors = {side: tensor.float() for side, _, tensor in own}
        if factors.keys() != {"A", "B"}:
            raise FormatError(f"{path}: {own[0][1]!r} has no other half")
        found[at] = (factors["A"], scale * factors["B"].T)
    return found


def _sides(path: Path, layers: int) -> dict[tuple[int, Place], list[tuple[str, str, Tensor]]]:
    """Return the tensors of each linear map: which half each is, its name and itself."""
    places = _names(layers)
    found: dict[tuple[int, Place], list[tuple[str, str, Tensor]]] = {}
    for name, tensor in load_tensors(path, "; adapters are read from safetensors alone").items():
        part = _FACTOR.fullmatch(name)
        own = part["map"] if part else ""
        at = next((places[end] for end in _ends(own) if end in places), None)
        if part is None or at is None:
            raise FormatError(
                f"{path}: tensor {name!r} is of no linear map that adapters can add to: queries, "
                f"keys, values, outputs and feed-forward maps of {layers} layers"
            )
        found.setdefault(at, []).append((part["side"], name, tensor))
    if not found:
        raise FormatError(f"{path}: no tensors")
    return found


def _ends(name: str) -> list[str]:
    """Return what a dotted name ends with, the longest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _names(layers: int) -> dict[str, tuple[int, Place]]:
    """Return the linear maps of all known architectures by their public names."""
    found: dict[str, tuple[int, Place]] = {}
    for one in MODEL_TYPES.values():
        if len(one.qkv) == 1:
            continue  # one map for three, or two, of ours
        names = (*one.qkv, one.out, one.up, one.down)
        places: tuple[Place, ...] = ("query", "key", "value", "out", "up", "down")
        for i in range(layers):
            for name, place in zip(names, places, strict=True):
                found[one.layer.format(i) + name] = (i, place)
    return found


def _shapes(encoder: TransformerConfig, place: Place, rank: int) -> dict[str, list[int]]:
    inputs, outputs = sizes(encoder)[place]
    return {"A": [rank, inputs], "B": [outputs, rank]}


def with_adapters(
    base: Any,
    family: str,
    name: str,
    adapters: Mapping[str, Factors],
    folder: Path,
    ranks: Sequence[int] | None = None,
) -> Adapted:
    """Return a model with adapters on a trunk, each with its best leading ranks first.

    Args:
        base: The trunk, in the order of heads and units of the public model.
        family: Its family.
        name: Of the new model.
        adapters: By name.
        folder: With the files that the trunk reads besides its weights.
        ranks: On offer, ascending; None for a quarter, half and all of the greatest. The last may
            be less than what the adapters have, which are then cut.

    Raises:
        ValueError: If the ranks, the names or the trunk do not fit.
    """
    config = base.config
    for axis in ("heads", "ffn"):
        if len(getattr(config, axis, (1.0,))) > 1:
            raise ValueError(
                f"{axis}={list(getattr(config, axis))}: heads and units are in an order of their "
                "own, which public adapters do not know; allowed is (1.0,)"
            )
    most = max(len(down) for own in adapters.values() for down, _ in own.values())
    offered = tuple(ranks or sorted({max(1, most // 4), max(1, most // 2), most}))
    if offered[-1] > most:
        raise ValueError(f"ranks={list(offered)}: the adapters have {most} at most")
    used = {place for own in adapters.values() for _, place in own}
    as_json = families.as_json(config)
    if "bits" in as_json:
        as_json["bits"] = (32,)
    own = AdaptedConfig(
        family,
        as_json,
        tuple(adapters),
        offered,
        tuple(place for place in PLACES if place in used),
    )
    made = Adapted(name, own)
    made.base.load_state_dict(base.state_dict())
    if made.assets:
        made.attach(folder)
    for number, factors in enumerate(adapters.values()):
        put(made, number, factors)
    return made.eval().requires_grad_(False)


@torch.no_grad()
def put(model: Adapted, number: int, factors: Factors) -> None:
    """Write one adapter's factors, the best leading ranks first; what it lacks adds nothing."""
    for i, _ in enumerate(layers_of(model.base)):
        for place in model.config.places:
            low = model.get_submodule(f"low.{i}.{place}")
            assert isinstance(low, LowRank)
            for tensor in (low.down, low.up):
                tensor[number].zero_()
            if (i, place) in factors:
                for tensor, part in zip(
                    (low.down, low.up), ordered(*factors[i, place]), strict=True
                ):
                    rows = part[: tensor.shape[1]]
                    tensor[number, : len(rows)] = rows
