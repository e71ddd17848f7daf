"""Convolutional classifiers of torchvision and timm against plain networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models import checkpoint
from models.families.convnet import Convnet
from models.formats.folder import FormatError
from models.formats.image_classifiers import is_one, read
from models.inputs.image import ImageInput
from tests.models.formats.plain_networks import (
    LITE0,
    LITE_KERNELS,
    MOBILENET,
    Network,
    Plain,
    efficientnet_lite,
    resnet,
    timm_inverted,
    torchvision_mobilenet,
)
from tests.walking import answers_of

IMAGE = ImageInput(30, 30, (0.5,) * 3, (0.5,) * 3)  # halves to odd sizes
TF = {"same": True, "eps": 1e-3}
LAYOUTS: dict[str, tuple[str, Plain, dict[str, Any]]] = {
    "torchvision MobileNetV2": ("torchvision-mobilenet-v2", torchvision_mobilenet, {}),
    "timm MobileNetV2": ("timm-mobilenet-v2", timm_inverted(MOBILENET, (3,) * 7), {}),
    "timm Lite": ("timm-efficientnet-lite", timm_inverted(LITE0, LITE_KERNELS), {}),
    "timm TF Lite": ("timm-tf-efficientnet-lite", timm_inverted(LITE0, LITE_KERNELS), TF),
    "Lite": ("efficientnet-lite-pytorch", efficientnet_lite, TF),
    "ResNet-18": ("resnet", resnet((2, 2, 2, 2), False), {}),
    "ResNet-34": ("resnet", resnet((3, 4, 6, 3), False), {}),
    "ResNet-50": ("resnet", resnet((3, 4, 6, 3), True), {}),
}
TOLD = ("torchvision MobileNetV2", "Lite", "ResNet-18", "ResNet-50")


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 30, 30, generator=torch.Generator().manual_seed(1))


def written(folder: Path, layout: str) -> tuple[Path, Tensor]:
    """Write a file of a layout; return it and what the plain network answers."""
    _, plain, options = LAYOUTS[layout]
    net = Network(**options)
    expected = plain(net, images())
    path = folder / "weights.safetensors"
    save_file(net.tensors, path)
    return path, expected


def answers(model: Convnet) -> Tensor:
    plan = model.plan(model.space.largest, model.inputs.plan_shapes())
    return answers_of(plan, {"image": images()})["label"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_classifier_equals_the_plain_network(tmp_path: Path, layout: str) -> None:
    path, expected = written(tmp_path, layout)
    assert expected.std() > 0.1
    model = read(path, "tiny", LAYOUTS[layout][0], image=IMAGE)
    torch.testing.assert_close(answers(model), expected, atol=1e-4, rtol=1e-4)
    checkpoint.save(tmp_path / "out", model, "convnet", torch.float32)
    stored = checkpoint.load(tmp_path / "out").model
    torch.testing.assert_close(answers(stored), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", TOLD)
def test_names_tell_the_format(tmp_path: Path, layout: str) -> None:
    path, expected = written(tmp_path, layout)
    model = read(path, "tiny", image=IMAGE)
    torch.testing.assert_close(answers(model), expected, atol=1e-4, rtol=1e-4)


def test_names_of_three_formats_need_to_be_told_apart(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "timm Lite")
    with pytest.raises(FormatError, match="pad differently; --format must say which"):
        read(path, "tiny")


def test_a_folder_of_timm_says_its_format_classes_and_normalisation(tmp_path: Path) -> None:
    path, expected = written(tmp_path, "timm TF Lite")
    path.rename(tmp_path / "model.safetensors")
    settings = {
        "architecture": "tf_efficientnet_lite0",
        "label_names": ["a", "b", "c", "d", "e"],
        "pretrained_cfg": {"input_size": [3, 30, 30], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert is_one(tmp_path)
    model = read(tmp_path, "tiny")
    torch.testing.assert_close(answers(model), expected, atol=1e-4, rtol=1e-4)
    assert model.config.labels == ("a", "b", "c", "d", "e")
    assert model.config.input == ImageInput(30, 30, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    settings["architecture"] = "efficientnet_b0"
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(FormatError, match="architecture='efficientnet_b0'; allowed: mobilenetv2"):
        read(tmp_path, "tiny")


def test_classes_are_numbers_unless_they_are_named(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "ResNet-18")
    assert read(path, "tiny", image=IMAGE).config.labels == ("0", "1", "2", "3", "4")
    assert read(path, "tiny", labels="abcde", image=IMAGE).config.labels == tuple("abcde")
    with pytest.raises(FormatError, match="2 labels; the classifier has 5 classes"):
        read(path, "tiny", labels="ab", image=IMAGE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layer2.0.bn1.bias"), "tensor 'layer2.0.bn1.bias' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor 'extra' is not part of the model"),
        (lambda t: t.pop("conv1.weight"), "its tensors are those of no format that is known"),
        (
            lambda t: t.update({"layer1.0.conv1.weight": torch.zeros(3)}),
            "'layer1.0.conv1.weight' has shape .3.; 4 dimensions are needed",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Any, message: str) -> None:
    net = Network()
    resnet((2, 2, 2, 2), False)(net, images())
    change(net.tensors)
    path = tmp_path / "weights.safetensors"
    save_file(net.tensors, path)
    with pytest.raises(FormatError, match=message):
        read(path, "tiny", image=IMAGE)


def test_another_number_of_blocks_is_refused_for_its_strides_are_not_known(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "Lite")
    net = Network(same=True)
    efficientnet_lite(net, images())
    tensors = {name: t for name, t in net.tensors.items() if not name.startswith("_blocks.15.")}
    save_file(tensors, path)
    with pytest.raises(FormatError, match=r"15 blocks; allowed: \[16, 21, 24, 30\]"):
        read(path, "tiny", image=IMAGE)


def test_an_autoformer_is_refused_with_what_reads_it(tmp_path: Path) -> None:
    name = "blocks.0.attn.rel_pos_embed_k.embeddings_table_v"
    path = tmp_path / "supernet-tiny.pth"
    torch.save({"model": {name: torch.zeros(30, 64), "cls_token": torch.zeros(1, 1, 256)}}, path)
    with pytest.raises(FormatError, match=r"is AutoFormer's, which is elastic already"):
        read(path, "tiny")
