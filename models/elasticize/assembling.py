"""From a ranked model and fitted cuts to a model of the family `pruned`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import checkpoint, families
from models.elasticize.refit import Map, Maps
from models.families.pruned import LayerForm, Pruned, PrunedConfig
from models.files import replacing
from models.inputs.text import TOKENIZER


@dataclass(frozen=True)
class Cut:
    """One value on the axis ``keep``.

    Attributes:
        keep: The value.
        forms: Of each layer.
        maps: What each form has of its own.
    """

    keep: float
    forms: tuple[LayerForm, ...]
    maps: tuple[Maps, ...]


def assemble(base: Any, family: str, cuts: Sequence[Cut]) -> Pruned:
    """Return a model with some cuts and the whole model; cuts that start alike share weights.

    Args:
        base: The ranked model, with the maps fitted for its order of heads and units.
        family: Of the base.
        cuts: By ascending ``keep``, without the whole model.
    """
    num_layers = len(base.layers)
    whole = Cut(1.0, (LayerForm("whole"),) * num_layers, ((),) * num_layers)
    every = [*cuts, whole]
    numbers: list[dict[tuple[LayerForm, ...], int]] = [{} for _ in range(num_layers)]
    weights: list[list[Maps]] = [[] for _ in range(num_layers)]
    for cut in every:
        for i in range(num_layers):
            key = _start(cut.forms, i)
            if key not in numbers[i]:
                numbers[i][key] = len(weights[i])
                weights[i].append(cut.maps[i])
    config = PrunedConfig(
        family=family,
        model=families.as_json(base.config),
        keep=tuple(cut.keep for cut in every),
        forms=tuple(tuple(key[-1] for key in of_layer) for of_layer in numbers),
        cuts=tuple(
            tuple(numbers[i][_start(cut.forms, i)] for i in range(num_layers)) for cut in every
        ),
    )
    model = Pruned(base.name, config)
    model.base = base
    for i, of_layer in enumerate(weights):
        for number, maps in enumerate(of_layer):
            own = model.get_submodule(f"forms.{i}.{number}")
            for linear, one in zip(own.children(), maps, strict=True):
                _fill(linear, one)
    return model.eval().requires_grad_(False)


def _start(forms: Sequence[LayerForm], i: int) -> tuple[LayerForm, ...]:
    """Return what a layer's weights depend on: its form and those before it."""
    own = forms[i]
    return (own,) if own.kind == "whole" else tuple(forms[: i + 1])


def _fill(linear: nn.Module, found: Map) -> None:
    with torch.no_grad():
        for name, value in found._asdict().items():
            getattr(linear, name).copy_(value)


def write(model: Pruned, out: Path) -> checkpoint.Manifest:
    """Save a model as a checkpoint, with the files that it reads."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    if TOKENIZER in model.assets:
        with replacing(out / TOKENIZER) as part:
            part.write_text(model.base.text.to_json())
        files.append(TOKENIZER)
    return checkpoint.save(out, model, "pruned", files=files)
