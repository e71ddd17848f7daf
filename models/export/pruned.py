"""A cut of a transformer: in the wrapped model's public layout where that can say it.

Public layouts give all layers one width. Heads and units that a layer lacks are zeros there, which
changes no answer. A linear layer has no public layout: tensors of such a cut are under our names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.export.parts import WEIGHTS, Folder
from models.families.pruned import LayerForm, Pruned
from models.inputs.text import TOKENIZER
from models.nn.transformer import Layer, layers_of
from models.space import Subnet


def write(
    model: Pruned, subnet: Subnet, folder: Folder, write_base: Callable[[Any, Subnet], None]
) -> None:
    """Write a cut.

    Args:
        model: The model.
        subnet: Of it, not the static exit.
        folder: To write to.
        write_base: Writes a subnet of the wrapped model.
    """
    keep = float(subnet["keep"])
    forms = model.config.cut(keep)
    whole: Subnet = model.base.space.largest
    of_base = whole | {axis: subnet[axis] for axis in subnet if axis in whole}
    why = _unsaid(model, forms)
    if why is None:
        write_base(filled(model, keep), of_base)
        if any(form.kind == "narrow" for form in forms):
            folder.remark(
                f"all layers of a public layout have one width: heads and units that a layer lacks "
                f"are zeros in {WEIGHTS}. The answers are the same, and only the ONNX file is "
                "smaller and faster for it"
            )
        return
    if TOKENIZER in model.assets:
        (folder.path / TOKENIZER).write_text(model.base.text.to_json())
    folder.layout = "safetensors"
    folder.write_tensors(_own(model, keep))
    folder.write_json(
        "config.json",
        {
            "encoder": vars(model.base.config.encoder),
            "layers": [vars(form) for form in forms],
            "answer": {axis: of_base[axis] for axis in of_base},
        },
    )
    folder.card = _CARD.strip().split("\n")
    folder.remark(f"transformers has no layout for this cut: {why}")


def filled(model: Pruned, keep: float) -> Any:
    """Return the wrapped model with zeros for the heads and units that a cut's layers lack."""
    base = copy.deepcopy(model.base)
    for layer, own in zip(layers_of(base), _weights(model, keep), strict=True):
        for name, linear in (("out", layer.attention.out), ("down", layer.ffn.down)):
            if f"{name}.weight" not in own:
                continue
            weight = own[f"{name}.weight"]
            with torch.no_grad():
                linear.weight.copy_(F.pad(weight, (0, linear.weight.shape[1] - weight.shape[1])))
                linear.bias.copy_(own[f"{name}.bias"])
    return base


def _weights(model: Pruned, keep: float) -> list[dict[str, Tensor]]:
    """Return by layer what its form has of its own."""
    found = []
    for forms, number in zip(model.forms, model.config.numbers(keep), strict=True):
        assert isinstance(forms, nn.ModuleList)
        found.append(dict(forms[number].state_dict()))
    return found


def _unsaid(model: Pruned, forms: list[LayerForm]) -> str | None:
    """Return what of a cut the wrapped model's layout cannot say."""
    if any(form.kind == "linear" for form in forms):
        return "some of its layers are one linear map"
    for i, (form, layer) in enumerate(zip(forms, layers_of(model.base), strict=True)):
        linears = layer.attention.out, layer.ffn.down
        if form.kind == "narrow" and not all("bias" in one.state_dict() for one in linears):
            return f"layer {i} has biases in its cut, none as a whole"
    return None


def _own(model: Pruned, keep: float) -> dict[str, Tensor]:
    """Return the tensors of a cut under our names."""
    state: dict[str, Tensor] = model.base.state_dict()
    found = {name: value for name, value in state.items() if not name.startswith("layers.")}
    layers = zip(layers_of(model.base), model.config.cut(keep), _weights(model, keep), strict=True)
    for i, (layer, form, own) in enumerate(layers):
        for name, value in _kept(layer, form).items():
            found[f"layers.{i}.{name}"] = value
        names = {"out": "attention.out", "down": "ffn.down", "linear": "linear"}
        for name, value in own.items():
            part, _, kind = name.rpartition(".")
            found[f"layers.{i}.{names[part]}.{kind}"] = value
    return found


def _kept(layer: Layer, form: LayerForm) -> dict[str, Tensor]:
    """Return what a form reads of the whole layer's tensors."""
    state = layer.state_dict()
    if form.kind == "whole":
        return state
    if form.kind == "linear":
        norm = "ffn_norm." if layer.is_post else "attention_norm."
        return {name: value for name, value in state.items() if name.startswith(norm)}
    found = {}
    for name, value in state.items():
        if name.startswith(("attention.out", "ffn.down")):
            continue
        if name.startswith("attention.qkv"):
            value = value[: form.groups]
        elif name == "attention.relative_bias":
            value = value[:, : form.groups * layer.attention.config.group]
        elif name.startswith("ffn."):
            value = value[: form.units]
        found[name] = value
    return found


_CARD = f"""
## `{WEIGHTS}`

`config.json` has the encoder and, layer by layer, the groups of heads and the feed-forward units
that are left; a layer of kind `linear` is `layers.L.linear` of each token with the layer's one
norm. `attention.qkv` has the shape [groups, rows, hidden]: the rows of a group are its queries,
then its key, then its value.
"""
