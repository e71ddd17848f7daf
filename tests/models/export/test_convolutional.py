"""Subnets of convolutional classifiers, exported, against ONNX Runtime and plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from models.elasticize.channels import groups_of, with_cuts
from models.export import Facts, write
from models.families.convnet import Convnet
from models.space import Subnet
from tests.conformance.fixtures.convnet import tiny_convnet, tiny_residual
from tests.models.elasticize.test_channels import NETWORKS, model_of
from tests.models.export.test_image import by_onnx
from tests.walking import answers_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
}


class Rebuilt:
    """The network as the folder's card describes it, from its files alone."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.state = load_file(folder / "model.safetensors")

    def __call__(self, x: Tensor) -> Tensor:
        for b, block in enumerate(self.config["blocks"]):
            y, place = x, f"blocks.{b}"
            for u, unit in enumerate(block["units"]):
                y = self.unit(unit, f"{place}.units.{u}", y)
            if block["shortcut"] == "identity":
                y = y + x
            elif block["shortcut"] != "none":
                if block["shortcut"] == "pool-conv":
                    stride = 1
                    for unit in block["units"]:
                        stride *= unit["stride"]
                    x = F.avg_pool2d(x, stride, ceil_mode=True)
                y = y + self.unit(block["shortcut_unit"], f"{place}.shortcut", x)
            x = ACTIVATIONS[block["activation"]](y)
            x = F.max_pool2d(x, 3, 2, 1) if block["pool"] else x
        x = x.mean((2, 3))
        if "head.mix.weight" in self.state:
            mixed = F.linear(x, self.state["head.mix.weight"])
            x = ACTIVATIONS[self.config["hidden_activation"]](mixed)
        return F.linear(x, self.state["head.classifier.weight"], self.state["head.classifier.bias"])

    def unit(self, unit: dict[str, Any], name: str, x: Tensor) -> Tensor:
        assert unit["padding"] == "half"
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        assert weight.shape[0] == unit["out"]
        y = F.conv2d(x, weight, bias, unit["stride"], unit["kernel"] // 2, groups=unit["groups"])
        y = ACTIVATIONS[unit["activation"]](y)
        if not unit["squeeze"]:
            return y
        s = y.mean((2, 3))
        for part, after in (("reduce", F.relu), ("expand", F.hardsigmoid)):
            inner = f"{name}.{part}"
            s = after(F.linear(s, self.state[f"{inner}.weight"], self.state[f"{inner}.bias"]))
        return y * s[:, :, None, None]


def cut(folder: Path) -> Convnet:
    """Return a network of which one block is left out and others have half their channels."""
    model = model_of(folder, NETWORKS["mobilenet"])
    groups = groups_of(model)
    sizes = [max(1, group.size // 2) for group in groups]
    sizes[next(i for i, group in enumerate(groups) if group.alone)] = 0
    return with_cuts(model, "keep", groups, {0.5: tuple(sizes)})


@pytest.mark.parametrize("kind", ["once-for-all", "slimmable", "cut"])
def test_a_subnet_equals_the_served_one(kind: str, tmp_path: Path) -> None:
    makers: dict[str, Callable[[], Convnet]] = {
        "once-for-all": tiny_convnet,
        "slimmable": tiny_residual,
        "cut": lambda: cut(tmp_path),
    }
    model = makers[kind]()
    images = torch.randn(3, *model.config.input.shape, generator=torch.Generator().manual_seed(1))
    for i, subnet in enumerate((model.space.smallest, model.space.largest)):
        out = tmp_path / str(i)
        assert write(model, Subnet(subnet), out, Facts("1", 0, {})) == []
        plan = model.plan(subnet, model.inputs.plan_shapes())
        (expected,) = answers_of(plan, {"image": images}).values()
        (by_file,) = by_onnx(out, images).values()
        for found in (by_file, Rebuilt(out)(images)):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        told = json.loads((out / "export.json").read_text())
        assert told["layout"] == "safetensors"
