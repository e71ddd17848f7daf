"""Random once-for-all files in the published layout, and the subnets of one as plain networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS, EXPANDED, MIXED, CLASSES = (8, 8, 8, 16, 16, 16, 24), 32, 40, 5
KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (1, 2)
STRIDES, SQUEEZES = (2, 2, 2, 1, 2), (False, True, False, True, True)
ACTIVATIONS = (nn.ReLU, nn.ReLU, nn.Hardswish, nn.Hardswish, nn.Hardswish)


def nearest_eight(value: float) -> int:
    """Round as the format does, written apart from the code under test."""
    low = int(value) // 8 * 8
    best = low if value - low < 4 else low + 8
    best = max(best, 8)
    return best + 8 if best < 0.9 * value else best


def mobilenet_state(seed: int = 0) -> dict[str, Tensor]:
    """Return a random state dict with the names of the published MobileNetV3 supernets."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(*shape) / (shape[1] * shape[2] * shape[3]) ** 0.5

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = torch.rand(channels) + 0.5
        state[f"{name}.bias"] = 0.2 * torch.randn(channels)
        state[f"{name}.running_mean"] = torch.randn(channels)
        state[f"{name}.running_var"] = torch.rand(channels) + 0.1
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("first_conv.conv", WIDTHS[0], 3, 3, 3)
    norm("first_conv.bn", WIDTHS[0])
    own = "blocks.0.mobile_inverted_conv"
    conv(f"{own}.depth_conv.conv", WIDTHS[0], 1, 3, 3)
    norm(f"{own}.depth_conv.bn", WIDTHS[0])
    conv(f"{own}.point_linear.conv", WIDTHS[1], WIDTHS[0], 1, 1)
    norm(f"{own}.point_linear.bn", WIDTHS[1])
    number, channels = 1, WIDTHS[1]
    for s, width in enumerate(WIDTHS[2:]):
        for _ in range(DEPTHS[-1]):
            own = f"blocks.{number}.mobile_inverted_conv"
            inner = nearest_eight(channels * EXPANSIONS[-1])
            conv(f"{own}.inverted_bottleneck.conv.conv", inner, channels, 1, 1)
            norm(f"{own}.inverted_bottleneck.bn.bn", inner)
            conv(f"{own}.depth_conv.conv.conv", inner, 1, 7, 7)
            for large, small in ((7, 5), (5, 3)):
                matrix = torch.eye(small**2) + 0.2 * torch.randn(small**2, small**2)
                state[f"{own}.depth_conv.conv.{large}to{small}_matrix"] = matrix
            norm(f"{own}.depth_conv.bn.bn", inner)
            if SQUEEZES[s]:
                middle = nearest_eight(inner // 4)
                for part, out, into in (("reduce", middle, inner), ("expand", inner, middle)):
                    conv(f"{own}.depth_conv.se.fc.{part}", out, into, 1, 1)
                    state[f"{own}.depth_conv.se.fc.{part}.bias"] = torch.randn(out)
            conv(f"{own}.point_linear.conv.conv", width, inner, 1, 1)
            norm(f"{own}.point_linear.bn.bn", width)
            number, channels = number + 1, width
    conv("final_expand_layer.conv", EXPANDED, channels, 1, 1)
    norm("final_expand_layer.bn", EXPANDED)
    conv("feature_mix_layer.conv", MIXED, EXPANDED, 1, 1)
    state["classifier.linear.weight"] = torch.randn(CLASSES, MIXED) / MIXED**0.5
    state["classifier.linear.bias"] = torch.randn(CLASSES)
    return state


def write(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Write a state dict as the published files hold it."""
    torch.save({"state_dict": dict(state)}, path)
    return path


class BatchStatistics(nn.Module):
    """Normalises by each batch's own statistics and keeps their mean, weighed by rows."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = scale[:, None, None], shift[:, None, None]
        self.seen: list[tuple[int, Tensor, Tensor]] = []
        self.estimates = True

    def forward(self, x: Tensor) -> Tensor:
        if self.estimates:
            mean = x.mean((0, 2, 3))
            variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
            self.seen.append((len(x), mean, variance))
        else:
            rows = sum(n for n, _, _ in self.seen)
            mean = sum(n * m for n, m, _ in self.seen) / rows  # type: ignore[assignment]
            variance = sum(n * v for n, _, v in self.seen) / rows  # type: ignore[assignment]
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return x * self.scale + self.shift


def convolution(weight: Tensor, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return torch's own layer with a weight."""
    out, into, size, _ = weight.shape
    made = nn.Conv2d(into * groups, out, size, stride, size // 2, groups=groups, bias=False)
    made.load_state_dict({"weight": weight.clone()})
    return made


class Squeeze(nn.Module):
    """A squeeze-excitation of plain layers."""

    def __init__(self, state: Mapping[str, Tensor], name: str, channels: int) -> None:
        super().__init__()
        inner = nearest_eight(channels // 4)
        self.reduce, self.expand = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        for part, own, o, n in (
            ("reduce", self.reduce, inner, channels),
            ("expand", self.expand, channels, inner),
        ):
            weight, bias = (state[f"{name}.{part}.{which}"] for which in ("weight", "bias"))
            own.load_state_dict({"weight": weight[:o, :n].clone(), "bias": bias[:o].clone()})

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * F.relu6(y + 3) / 6


class Residual(nn.Module):
    """Layers, and their input added."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y


def kernel_of(state: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """Return a depthwise kernel: a centre, mapped tap by tap by a matrix, step by step."""
    kernel = state[f"{name}.conv.weight"]
    for large, small in ((7, 5), (5, 3)):
        if size <= small:
            matrix = state[f"{name}.{large}to{small}_matrix"]
            centre = kernel[:, 0, 1:-1, 1:-1].flatten(1)
            kernel = torch.einsum("ij,cj->ci", matrix, centre).view(-1, 1, small, small)
    return kernel


def plain_mobilenet(
    state: Mapping[str, Tensor], ks: Sequence[int], e: Sequence[int], d: Sequence[int]
) -> nn.Sequential:
    """Return a subnet as a network of plain layers; its statistics are estimated as it runs."""

    def norm(name: str, channels: int) -> BatchStatistics:
        return BatchStatistics(state[f"{name}.weight"][:channels], state[f"{name}.bias"][:channels])

    own = "blocks.0.mobile_inverted_conv"
    layers: list[nn.Module] = [
        convolution(state["first_conv.conv.weight"], 2),
        norm("first_conv.bn", WIDTHS[0]),
        nn.Hardswish(),
        Residual(
            convolution(state[f"{own}.depth_conv.conv.weight"], groups=WIDTHS[0]),
            norm(f"{own}.depth_conv.bn", WIDTHS[0]),
            nn.ReLU(),
            convolution(state[f"{own}.point_linear.conv.weight"]),
            norm(f"{own}.point_linear.bn", WIDTHS[1]),
        ),
    ]
    channels = WIDTHS[1]
    for s, width in enumerate(WIDTHS[2:]):
        for i in range(d[s]):
            b = DEPTHS[-1] * s + i
            own = f"blocks.{b + 1}.mobile_inverted_conv"
            inner, stride = nearest_eight(channels * e[b]), STRIDES[s] if i == 0 else 1
            kernel = kernel_of(state, f"{own}.depth_conv.conv", ks[b])[:inner]
            expand = state[f"{own}.inverted_bottleneck.conv.conv.weight"][:inner]
            project = state[f"{own}.point_linear.conv.conv.weight"][:, :inner]
            squeeze = f"{own}.depth_conv.se.fc"
            block = [
                convolution(expand),
                norm(f"{own}.inverted_bottleneck.bn.bn", inner),
                ACTIVATIONS[s](),
                convolution(kernel, stride, inner),
                norm(f"{own}.depth_conv.bn.bn", inner),
                ACTIVATIONS[s](),
                Squeeze(state, squeeze, inner) if SQUEEZES[s] else nn.Identity(),
                convolution(project),
                norm(f"{own}.point_linear.bn.bn", width),
            ]
            layers += [Residual(*block)] if stride == 1 and channels == width else block
            channels = width
    classifier = nn.Linear(MIXED, CLASSES)
    classifier.load_state_dict({p: state[f"classifier.linear.{p}"] for p in ("weight", "bias")})
    layers += [
        convolution(state["final_expand_layer.conv.weight"]),
        norm("final_expand_layer.bn", EXPANDED),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        convolution(state["feature_mix_layer.conv.weight"]),
        nn.Hardswish(),
        nn.Flatten(),
        classifier,
    ]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def settle(net: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """Estimate a plain network's statistics; from then on it uses them."""
    for batch in batches:
        net(batch)
    for part in net.modules():
        if isinstance(part, BatchStatistics):
            part.estimates = False
    return net
