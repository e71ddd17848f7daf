from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.families.convnet import Convnet
from models.formats import once_for_all_resnet
from models.inputs.image import ImageInput
from models.train.statistics import estimated
from tests.models.formats.once_for_all_files import (
    BatchStatistics,
    convolution,
    nearest_eight,
    settle,
    write,
)
from tests.walking import answers_of

IMAGE = ImageInput(64, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHAPES = {"image": IMAGE.shape}
STEM, STAGES, BASE, CLASSES = 32, (40, 64, 80, 96), (2, 2, 4, 2), 3
EXPANSIONS, WIDTHS = (0.2, 0.25, 0.35), (0.65, 0.8, 1.0)


def random_state() -> dict[str, Tensor]:
    """Return a random state dict with the names of the published ResNet-50 supernet."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def layer(name: str, out: int, into: int, size: int) -> None:
        inner = f"{name}.conv" if name == "input_stem.1" else name
        state[f"{inner}.conv.conv.weight"] = (
            torch.randn(out, into, size, size) / (into * size**2 / 2) ** 0.5
        )
        norm = {"weight": torch.rand(out) + 0.5, "bias": 0.2 * torch.randn(out)}
        norm |= {"running_mean": torch.randn(out), "running_var": torch.rand(out)}
        state.update({f"{inner}.bn.bn.{part}": tensor for part, tensor in norm.items()})
        state[f"{inner}.bn.bn.num_batches_tracked"] = torch.tensor(1)

    middle = nearest_eight(STEM // 2)
    layer("input_stem.0", middle, 3, 3)
    layer("input_stem.1", middle, middle, 3)
    layer("input_stem.2", STEM, middle, 3)
    number, into = 0, STEM
    for base, out in zip(BASE, STAGES, strict=True):
        for i in range(base + 2):
            inner = nearest_eight(round(out * EXPANSIONS[-1]))
            layer(f"blocks.{number}.conv1", inner, into, 1)
            layer(f"blocks.{number}.conv2", inner, inner, 3)
            layer(f"blocks.{number}.conv3", out, inner, 1)
            if i == 0:
                layer(f"blocks.{number}.downsample", out, into, 1)
            number, into = number + 1, out
    state["classifier.linear.linear.weight"] = torch.randn(CLASSES, into) / into**0.5
    state["classifier.linear.linear.bias"] = torch.randn(CLASSES)
    return state


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut."""

    def __init__(self, layers: list[nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class Kept(nn.Module):
    """The stem's second layer: its input is added to what it gives."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y + x


def plain(state: Mapping[str, Tensor], genes: Mapping[str, Any]) -> nn.Module:
    """Return a subnet as a network of plain layers; its statistics are estimated as it runs."""

    def layer(name: str, out: int, into: int, stride: int = 1) -> list[nn.Module]:
        weight = state[f"{name}.conv.conv.weight"][:out, :into]
        scale, shift = (state[f"{name}.bn.bn.{part}"][:out] for part in ("weight", "bias"))
        return [convolution(weight, stride), BatchStatistics(scale, shift)]

    d, e, w = genes["d"], iter(genes["e"]), [WIDTHS[i] for i in genes["w"]]
    middle, stem = nearest_eight(nearest_eight(STEM * w[0]) // 2), nearest_eight(STEM * w[1])
    layers = [*layer("input_stem.0", middle, 3, 2), nn.ReLU()]
    if d[0] == 2:
        layers.append(Kept(*layer("input_stem.1.conv", middle, middle), nn.ReLU()))
    layers += [*layer("input_stem.2", stem, middle), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    number, into = 0, stem
    for s, (base, full) in enumerate(zip(BASE, STAGES, strict=True)):
        out, stride = nearest_eight(full * w[s + 2]), 1 if s == 0 else 2
        for i in range(base + 2):
            inner, own = nearest_eight(round(out * next(e))), f"blocks.{number}"
            number += 1
            if i >= base + d[s + 1]:
                continue
            block = [*layer(f"{own}.conv1", inner, into), nn.ReLU()]
            block += [*layer(f"{own}.conv2", inner, inner, stride if i == 0 else 1), nn.ReLU()]
            block += layer(f"{own}.conv3", out, inner)
            shortcut: nn.Module = nn.Identity()
            if i == 0:
                pool = nn.AvgPool2d(stride, stride, ceil_mode=True)
                shortcut = nn.Sequential(pool, *layer(f"{own}.downsample", out, into))
            layers.append(Bottleneck(block, shortcut))
            into = out
    classifier = nn.Linear(into, CLASSES)
    weight = state["classifier.linear.linear.weight"][:, :into].clone()
    bias = state["classifier.linear.linear.bias"]
    classifier.load_state_dict({"weight": weight, "bias": bias})
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def genes(rng: Random) -> dict[str, list[Any]]:
    return {
        "d": [rng.choice((0, 2)), *(rng.choice((0, 1, 2)) for _ in BASE)],
        "e": [rng.choice(EXPANSIONS) for _ in range(sum(BASE) + 2 * len(BASE))],
        "w": [rng.randrange(3) for _ in range(6)],
    }


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Convnet]:
    state = random_state()
    path = write(tmp_path_factory.mktemp("ofa") / "resnet.pth", state)
    return state, once_for_all_resnet.read(path, "tiny", image=IMAGE)


def images(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, *IMAGE.shape, generator=torch.Generator().manual_seed(seed))


def test_subnets_equal_plain_networks_with_the_same_weights_and_statistics(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    state, model = supernet
    drawn = [genes(Random(i)) for i in range(5)]
    subnets = [model.canonical(once_for_all_resnet.choices(**one)) for one in drawn]
    batches, x = [images(12, 0), images(4, 1)], images(3, 2)
    ready = estimated(model, subnets, batches)
    for one, subnet in zip(drawn, subnets, strict=True):
        (found,) = answers_of(ready.plan(subnet, SHAPES), {"image": x}).values()
        expected = settle(plain(state, one), batches)(x)
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=1e-3)


def test_a_stage_leaves_out_its_last_blocks_and_the_stem_its_second_layer(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    whole, least = model.choices.largest, model.choices.smallest
    assert len(model.chosen(whole)) == 3 + 18
    assert [one.block for one in model.chosen(least)] == [0, 2, 3, 4, 7, 8, 11, 12, 13, 14, 17, 18]


def test_inner_channels_follow_the_width_and_the_expansion_together(
    supernet: tuple[dict[str, Tensor], Convnet],
) -> None:
    _, model = supernet
    subnet = model.choices.largest | {"stage4.width": 0.65, "stage4.block1.expand": 0.35}
    first = next(one for one in model.chosen(subnet) if one.block == 17)
    assert [choice.out for choice in first.choices] == [24, 24, 64, 64]  # 96 * .65 = 62.4; * .35
