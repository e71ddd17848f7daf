"""A subnet of a convolutional classifier as safetensors: convolutions with their norms folded in.

No public library has networks of which each block has its own channels, so ``config.json`` says the
subnet block by block.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.export.image import preprocessor
from models.export.parts import WEIGHTS, Folder
from models.families.convnet import Convnet
from models.formats.vision import PREPROCESSOR
from models.nn.blocks import BlockChoice, UnitChoice, UnitConfig
from models.nn.conv_unit import ConvUnit
from models.space import Subnet


def write(model: Convnet, subnet: Subnet, folder: Folder) -> None:
    """Write the subnet's weights, its blocks and what becomes of an image."""
    tensors: dict[str, Tensor] = {}
    blocks = [
        _block(model, one, f"blocks.{i}", tensors)
        for i, one in enumerate(model.path(model.canonical(subnet)))
    ]
    channels = blocks[-1]["units"][-1]["out"]
    head = model.head.mix or model.head.classifier
    for name, tensor in model.head.state_dict().items():
        tensors[f"head.{name}"] = tensor
    name = "classifier" if model.head.mix is None else "mix"
    tensors[f"head.{name}.weight"] = head.weight[:, :channels]
    folder.layout = "safetensors"
    folder.write_tensors(tensors)
    config = model.config
    folder.write_json(
        "config.json",
        {
            "blocks": blocks,
            "hidden_activation": config.hidden_activation,
            "labels": list(config.labels),
        },
    )
    folder.write_json(PREPROCESSOR, preprocessor(config.input))
    folder.card = _CARD.strip().split("\n")


def _block(
    model: Convnet, one: BlockChoice, place: str, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """Return what a block is and add its tensors."""
    block = model.block(one.block)
    units = []
    for u, (config, choice) in enumerate(zip(block.config.normalised, one.choices, strict=True)):
        is_shortcut = u == len(block.config.units)
        name = f"{place}.{'shortcut' if is_shortcut else f'units.{u}'}"
        tensors |= _unit(block.unit(u), choice, one.number, block.eps, name)
        units.append(_said(config, choice))
    found = {
        "units": units[: len(block.config.units)],
        "shortcut": block.config.shortcut,
        "activation": block.config.activation,
        "pool": block.config.pool,
    }
    return found | ({"shortcut_unit": units[-1]} if block.config.shortcut_unit else {})


def _unit(
    unit: ConvUnit, choice: UnitChoice, number: int, eps: float, name: str
) -> dict[str, Tensor]:
    if unit.config.fitted:
        own = unit.map(number)
        found = {f"{name}.{part}": tensor for part, tensor in own.state_dict().items()}
    else:
        weight, bias = unit.folded(choice.kernel, number, eps)
        inputs = 1 if unit.config.out is None else choice.inputs
        found = {
            f"{name}.weight": weight[: choice.out, :inputs],
            f"{name}.bias": bias[: choice.out],
        }
    if unit.reduce is not None and unit.expand is not None:
        out, inner = choice.out, choice.squeeze
        found[f"{name}.reduce.weight"] = unit.reduce.weight[:inner, :out]
        found[f"{name}.reduce.bias"] = unit.reduce.bias[:inner]
        found[f"{name}.expand.weight"] = unit.expand.weight[:out, :inner]
        found[f"{name}.expand.bias"] = unit.expand.bias[:out]
    return found


def _said(config: UnitConfig, choice: UnitChoice) -> dict[str, Any]:
    return {
        "in": choice.inputs,
        "out": choice.out,
        "kernel": choice.kernel,
        "stride": config.stride,
        "groups": choice.inputs if config.out is None else 1,
        "padding": config.padding,
        "activation": config.activation,
        "squeeze": choice.squeeze,
    }


_CARD = f"""
## `{WEIGHTS}`

`config.json` has the blocks. Normalisation is folded into weights and biases.

1. `blocks.B.units.U`: a convolution with bias, then its activation. `padding` is `half`: half the
   kernel on each side; or `same`: so that ceil(size / stride) pixels come out, the odd one of the
   zeros at the end. Where `squeeze` is not 0: times hardsigmoid(`expand`(ReLU(`reduce`(mean over
   places)))).
2. Then the shortcut is added: `identity`: what entered the block; `conv`: `blocks.B.shortcut` of
   it; `pool-conv`: the same after the mean of stride x stride pixels, rounded up. Then the block's
   activation, and where `pool` is true the greatest of 3x3 pixels with stride 2 and padding 1.
3. `head`: the mean over places, `mix` with `hidden_activation` where there is one, `classifier`.

`{PREPROCESSOR}` says what becomes of an image: RGB, bicubic until the shorter side fits, cut at the
centre, divided by 255, less the mean, over the deviation.
"""
