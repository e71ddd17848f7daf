"""Random slimmable files in the published layout, and each width of one as a plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

RESNET = ((32, 3, 1), (48, 4, 2), (64, 6, 2), (80, 3, 2))


class Sizes(NamedTuple):
    """Channels at full width; the number of blocks and the strides are the format's."""

    stem: int = 16
    v1: Sequence[int] = (16, 24, 24, 32, 40)
    v2: Sequence[int] = (16, 24, 24, 32, 32, 40, 48)
    last: int = 56  # of MobileNetV2, at every width
    classes: int = 4


PUBLISHED = Sizes(32, (64, 128, 256, 512, 1024), (16, 24, 32, 64, 96, 160, 320), 1280, 1000)
V1 = ((1, 1), (2, 2), (2, 2), (6, 2), (2, 2))
V2 = ((1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1))

Channels = Callable[[float], int]


def rounded(full: int) -> Channels:
    """Return the MobileNets' rule: the nearest multiple of 8 that loses at most a tenth."""

    def at(width: float) -> int:
        exact = full * width
        low = int(exact) // 8 * 8
        best = max(1, low if exact - low < 4 else low + 8)
        return best + 8 if best < 0.9 * exact else best

    return at


def times(ratio: int, channels: Channels) -> Channels:
    return lambda width: ratio * channels(width)


class Builder:
    """Writes a file's tensors, or builds a network of them at one width."""

    def __init__(self, widths: Sequence[float], universal: bool, sizes: Sizes) -> None:
        self.widths, self.universal, self.sizes = widths, universal, sizes
        self.state: dict[str, Tensor] = {}
        self.at: int | None = None  # position of a width; None to write

    def width(self) -> float:
        return 1.0 if self.at is None else self.widths[self.at]

    def conv(
        self, name: str, into: Channels, out: Channels, size: int, stride: int, depthwise: bool
    ) -> nn.Module:
        o, n = out(self.width()), into(self.width())
        if self.at is None:
            shape = (o, 1 if depthwise else n, size, size)
            self.state[f"{name}.weight"] = torch.randn(*shape) * (2 / (shape[1] * size**2)) ** 0.5
        groups = n if depthwise else 1
        made = nn.Conv2d(n, o, size, stride, size // 2, groups=groups, bias=False)
        weight = self.state[f"{name}.weight"][:o, : n // groups]
        made.load_state_dict({"weight": weight.clone()})
        return made

    def norm(self, name: str, channels: Channels, plain: bool = False) -> nn.Module:
        if self.at is None:
            full = channels(1.0)
            if self.universal or plain:
                self._affine(name, full)
            if plain:
                self._statistics(name, full)
            else:
                for i, width in enumerate(self.widths):
                    if not self.universal:
                        self._affine(f"{name}.bn.{i}", channels(width))
                    self._statistics(f"{name}.bn.{i}", channels(width))
            return nn.Identity()
        made = nn.BatchNorm2d(channels(self.width()))
        own = name if plain else f"{name}.bn.{self.at}"
        affine = name if self.universal or plain else own
        kept = slice(channels(self.width()))
        found = {part: self.state[f"{affine}.{part}"][kept] for part in ("weight", "bias")}
        found |= {p: self.state[f"{own}.{p}"] for p in ("running_mean", "running_var")}
        found["num_batches_tracked"] = torch.tensor(0)
        made.load_state_dict({part: tensor.clone() for part, tensor in found.items()})
        return made

    def _affine(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = torch.rand(channels) + 0.5
        self.state[f"{name}.bias"] = 0.2 * torch.randn(channels)

    def _statistics(self, name: str, channels: int) -> None:
        self.state[f"{name}.running_mean"] = 0.2 * torch.randn(channels)
        self.state[f"{name}.running_var"] = torch.rand(channels) + 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    def classifier(self, into: Channels) -> nn.Module:
        n = into(self.width())
        if self.at is None:
            self.state["classifier.0.weight"] = torch.randn(self.sizes.classes, n) / n**0.5
            self.state["classifier.0.bias"] = torch.randn(self.sizes.classes)
        made = nn.Linear(n, self.sizes.classes)
        weight = self.state["classifier.0.weight"][:, :n].clone()
        made.load_state_dict({"weight": weight, "bias": self.state["classifier.0.bias"]})
        return made


class Added(nn.Module):
    """Layers, and their input or another branch added."""

    def __init__(self, layers: Sequence[nn.Module], shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut, self.after = nn.Sequential(*layers), shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.layers(x) + self.shortcut(x))
        return y


def mobilenet_v1(b: Builder) -> nn.Sequential:
    into = rounded(b.sizes.stem)
    layers = [
        b.conv("features.0.0", lambda _: 3, into, 3, 2, False),
        b.norm("features.0.1", into),
        nn.ReLU6(),
    ]
    number = 1
    for full, (count, first) in zip(b.sizes.v1, V1, strict=True):
        out = rounded(full)
        for i in range(count):
            own = f"features.{number}.body"
            layers += [
                b.conv(f"{own}.0", into, into, 3, first if i == 0 else 1, True),
                b.norm(f"{own}.1", into),
                nn.ReLU6(),
                b.conv(f"{own}.3", into, out, 1, 1, False),
                b.norm(f"{own}.4", out),
                nn.ReLU6(),
            ]
            into, number = out, number + 1
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), b.classifier(into))


def mobilenet_v2(b: Builder) -> nn.Sequential:
    into, full = rounded(b.sizes.stem), b.sizes.stem
    layers: list[nn.Module] = [
        b.conv("features.0.0", lambda _: 3, into, 3, 2, False),
        b.norm("features.0.1", into),
        nn.ReLU6(),
    ]
    number = 1
    for channels, (ratio, count, first) in zip(b.sizes.v2, V2, strict=True):
        out = rounded(channels)
        for i in range(count):
            own, stride = f"features.{number}.body", first if i == 0 else 1
            inner = times(ratio, into)
            block: list[nn.Module] = []
            if ratio > 1:
                block += [
                    b.conv(f"{own}.0", into, inner, 1, 1, False),
                    b.norm(f"{own}.1", inner),
                    nn.ReLU6(),
                ]
            at = len(block)
            block += [
                b.conv(f"{own}.{at}", inner, inner, 3, stride, True),
                b.norm(f"{own}.{at + 1}", inner),
                nn.ReLU6(),
                b.conv(f"{own}.{at + 3}", inner, out, 1, 1, False),
                b.norm(f"{own}.{at + 4}", out),
            ]
            is_same = stride == 1 and full == channels
            layers += [Added(block, nn.Identity(), nn.Identity())] if is_same else block
            into, full, number = out, channels, number + 1
    own = f"features.{number}"
    layers += [
        b.conv(f"{own}.0", into, lambda _: b.sizes.last, 1, 1, False),
        b.norm(f"{own}.1", lambda _: b.sizes.last, plain=True),
        nn.ReLU6(),
    ]
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *pooled, b.classifier(lambda _: b.sizes.last))


def resnet_50(b: Builder) -> nn.Sequential:
    into: Channels = lambda w: int(16 * w)  # noqa: E731
    layers: list[nn.Module] = [
        b.conv("features.0.0", lambda _: 3, into, 7, 2, False),
        b.norm("features.0.1", into),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    number = 1
    for full, count, first in RESNET:
        for i in range(count):
            stride = first if i == 0 else 1
            out: Channels = lambda w, n=full // 4: int(n * w * 4)  # type: ignore[misc] # noqa: E731
            inner: Channels = lambda w, o=out: o(w) // 4  # type: ignore[misc] # noqa: E731
            own = f"features.{number}"
            block = [
                b.conv(f"{own}.body.0", into, inner, 1, 1, False),
                b.norm(f"{own}.body.1", inner),
                nn.ReLU(),
                b.conv(f"{own}.body.3", inner, inner, 3, stride, False),
                b.norm(f"{own}.body.4", inner),
                nn.ReLU(),
                b.conv(f"{own}.body.6", inner, out, 1, 1, False),
                b.norm(f"{own}.body.7", out),
            ]
            shortcut: nn.Module = nn.Identity()
            if i == 0:
                shortcut = nn.Sequential(
                    b.conv(f"{own}.shortcut.0", into, out, 1, stride, False),
                    b.norm(f"{own}.shortcut.1", out),
                )
            layers.append(Added(block, shortcut, nn.ReLU()))
            into, number = out, number + 1
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), b.classifier(into))


NETWORKS = {"mobilenet-v1": mobilenet_v1, "mobilenet-v2": mobilenet_v2, "resnet-50": resnet_50}


def random_file(
    architecture: str, widths: Sequence[float], universal: bool, sizes: Sizes | None = None
) -> Builder:
    """Return a builder that has written every tensor of a file."""
    torch.manual_seed(0)
    builder = Builder(widths, universal, sizes or Sizes())
    NETWORKS[architecture](builder)
    return builder


def plain(builder: Builder, architecture: str, at: int) -> nn.Module:
    """Return the network at one width, made of torch's own layers."""
    builder.at = at
    made = NETWORKS[architecture](builder).eval().requires_grad_(False)
    builder.at = None
    return made


def parallel(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return what the published training script saves."""
    return {"model": {f"module.{name}": tensor for name, tensor in state.items()}}
