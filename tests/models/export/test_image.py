"""Subnets of the slimmable classifier, exported, against ONNX Runtime and plain torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from models.backends.onnx.sessions import options_beside
from models.backends.torch import TorchBackend
from models.export import Facts, write
from models.export.onnx_file import ONNX
from models.formats.vision import PREPROCESSOR
from tests.tiny import tiny_model

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def rebuilt(folder: Path, images: Tensor) -> dict[str, Tensor]:
    """Run the network as the folder's card describes it, from its files alone."""
    config = json.loads((folder / "config.json").read_text())
    state = load_file(folder / "model.safetensors")

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        groups = x.shape[1] // config["norm_group"]
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.group_norm(x, groups, weight, bias, config["norm_eps"])

    x = F.relu(norm("stem_norm", conv("stem", images, config["strides"][0])))
    for s, blocks in enumerate(config["blocks"]):
        for b in range(blocks):
            name, stride = f"stages.{s}.{b}", config["strides"][s] if s and not b else 1
            h = F.relu(norm(f"{name}.norm1", conv(f"{name}.conv1", x, stride)))
            h = norm(f"{name}.norm2", conv(f"{name}.conv2", h))
            shortcut = f"{name}.shortcut"
            x = F.relu(h + (conv(shortcut, x, stride) if f"{shortcut}.weight" in state else x))
    answers = {}
    for task in config["tasks"]:
        name = f"decoders.{task}"
        h = F.relu(norm(f"{name}.norm1", conv(f"{name}.conv1", x)))
        h = F.relu(norm(f"{name}.norm2", conv(f"{name}.conv2", h)))
        pooled = h.mean(dim=(2, 3))
        answers[task] = F.linear(pooled, state[f"{name}.head.weight"], state[f"{name}.head.bias"])
    return answers


def by_onnx(folder: Path, images: Tensor) -> Mapping[str, Tensor]:
    path = str(folder / ONNX)
    session = runtime.InferenceSession(path, options_beside(), ["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    found = session.run(names, {"pixel_values": images.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


@pytest.mark.parametrize("tasks", [None, ["flowers", "people"]], ids=["all", "some"])
def test_a_subnet_equals_the_served_one(tmp_path: Path, tasks: list[str] | None) -> None:
    model = tiny_model(num_stages=3)
    part = model.space if tasks is None else model.space.select({None, *tasks})
    subnet = part.sample(Random(5))
    write(model, subnet, tmp_path, Facts("1", 0, {}), tasks)
    images = torch.randn(4, *model.config.input.shape, generator=torch.Generator().manual_seed(1))
    plan = model.plan(subnet, model.inputs.plan_shapes(), tasks)
    expected = TorchBackend().run(plan, {"image": images})
    assert list(expected) == (tasks or list(model.tasks))
    for found in (by_onnx(tmp_path, images), rebuilt(tmp_path, images)):
        assert found.keys() == expected.keys()
        for task, logits in expected.items():
            torch.testing.assert_close(found[task], logits, atol=1e-4, rtol=0)


def test_the_folder_says_what_becomes_of_an_image(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny_model()
    write(model, model.space.smallest, tmp_path, Facts("1", 0, {}))
    said: dict[str, Any] = json.loads((tmp_path / PREPROCESSOR).read_text())
    given = model.config.input
    assert (said["image_mean"], said["image_std"]) == (list(given.mean), list(given.std))
    pixels = torch.randint(0, 256, (given.height, given.width, 3), dtype=torch.uint8)
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path)
    found = processor(pixels.numpy(), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found, given.from_pixels(pixels.numpy()), atol=1e-5, rtol=0)
