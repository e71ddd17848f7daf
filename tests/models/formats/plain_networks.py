"""Plain networks of torchvision's and timm's layouts, from the papers, for comparison.

Each is one function of named tensors and images. Tensors that are not there yet are drawn, so that
a first call with small widths makes a file of the exact layout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

STAGES = ((1, 1), (6, 2), (6, 2), (6, 2), (6, 1), (6, 2), (6, 1))  # expansion, stride
MOBILENET = (1, 2, 3, 4, 3, 3, 1)
LITE0 = (1, 2, 2, 3, 3, 4, 1)
LITE_KERNELS = (3, 3, 5, 3, 5, 5, 3)
WIDTHS = (4, 6, 6, 10, 12, 14, 18)  # two stages of one width
LABELS = 5


class Network:
    """Named tensors, drawn when they are first used, and layers that use them."""

    def __init__(self, same: bool = False, eps: float = 1e-5) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._same, self._eps = same, eps
        self._generator = torch.Generator().manual_seed(0)

    def _take(self, name: str, *shape: int, low: float | None = None) -> Tensor:
        if name not in self.tensors:
            drawn = torch.randn(*shape, generator=self._generator)
            self.tensors[name] = drawn * 0.3 if low is None else drawn.abs() * 0.3 + low
        assert self.tensors[name].shape == shape
        return self.tensors[name]

    def conv(
        self, x: Tensor, names: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> Tensor:
        """Convolve and normalise; names of the two, parted by a blank."""
        conv, norm = names.split()
        weight = self._take(f"{conv}.weight", out, x.shape[1] // groups, kernel, kernel)
        padding = kernel // 2
        if self._same:
            padding = 0
            for size, before in ((x.shape[3], 0), (x.shape[2], 2)):
                total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
                x = F.pad(x, [0] * before + [total // 2, total - total // 2])
        x = F.conv2d(x, weight, None, stride, padding, 1, groups)
        scale, shift = self._take(f"{norm}.weight", out, low=0.5), self._take(f"{norm}.bias", out)
        mean = self._take(f"{norm}.running_mean", out)
        variance = self._take(f"{norm}.running_var", out, low=0.5)
        self.tensors[f"{norm}.num_batches_tracked"] = torch.tensor(1)
        x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + self._eps)
        return x * scale[:, None, None] + shift[:, None, None]

    def head(self, x: Tensor, name: str) -> Tensor:
        """Classify the mean over places."""
        weight = self._take(f"{name}.weight", LABELS, x.shape[1])
        return F.linear(x.mean((2, 3)), weight, self._take(f"{name}.bias", LABELS))


def _inverted(
    net: Network, x: Tensor, names: list[str], ratio: int, out: int, kernel: int, stride: int
) -> Tensor:
    y = x
    if ratio > 1:
        y = F.relu6(net.conv(y, names[0], ratio * x.shape[1]))
    y = F.relu6(net.conv(y, names[-2], y.shape[1], kernel, stride, groups=y.shape[1]))
    y = net.conv(y, names[-1], out)
    return x + y if y.shape == x.shape and stride == 1 else y


def torchvision_mobilenet(net: Network, x: Tensor) -> Tensor:
    x = F.relu6(net.conv(x, "features.0.0 features.0.1", 6, 3, 2))
    number = 1
    for (ratio, first), count, out in zip(STAGES, MOBILENET, WIDTHS, strict=True):
        for i in range(count):
            own = f"features.{number}.conv"
            names = [f"{own}.{j}.0 {own}.{j}.1" for j in range(2 if ratio > 1 else 1)]
            names.append(f"{own}.{len(names)} {own}.{len(names) + 1}")
            x = _inverted(net, x, names, ratio, out, 3, first if i == 0 else 1)
            number += 1
    x = F.relu6(net.conv(x, f"features.{number}.0 features.{number}.1", 20))
    return net.head(x, "classifier.1")


def timm_inverted(repeats: tuple[int, ...], kernels: tuple[int, ...]) -> Plain:
    def run(net: Network, x: Tensor) -> Tensor:
        x = F.relu6(net.conv(x, "conv_stem bn1", 6, 3, 2))
        for stage, ((ratio, first), count) in enumerate(zip(STAGES, repeats, strict=True)):
            for i in range(count):
                own = f"blocks.{stage}.{i}"
                parts = ("conv_dw", "conv_pw") if ratio == 1 else ("conv_pw", "conv_dw", "conv_pwl")
                names = [f"{own}.{part} {own}.bn{j}" for j, part in enumerate(parts, 1)]
                stride = first if i == 0 else 1
                x = _inverted(net, x, names, ratio, WIDTHS[stage], kernels[stage], stride)
        x = F.relu6(net.conv(x, "conv_head bn2", 20))
        return net.head(x, "classifier")

    return run


def efficientnet_lite(net: Network, x: Tensor) -> Tensor:
    x = F.relu6(net.conv(x, "_conv_stem _bn0", 6, 3, 2))
    number = 0
    for stage, ((ratio, first), count) in enumerate(zip(STAGES, LITE0, strict=True)):
        for i in range(count):
            own = f"_blocks.{number}"
            names = [f"{own}._depthwise_conv {own}._bn1", f"{own}._project_conv {own}._bn2"]
            if ratio > 1:
                names.insert(0, f"{own}._expand_conv {own}._bn0")
            kernel, stride = LITE_KERNELS[stage], first if i == 0 else 1
            x = _inverted(net, x, names, ratio, WIDTHS[stage], kernel, stride)
            number += 1
    x = F.relu6(net.conv(x, "_conv_head _bn1", 20))
    return net.head(x, "_fc")


def resnet(repeats: tuple[int, ...], bottleneck: bool) -> Plain:
    def run(net: Network, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(net.conv(x, "conv1 bn1", 6, 7, 2)), 3, 2, 1)
        for stage, count in enumerate(repeats, 1):
            for i in range(count):
                own, stride = f"layer{stage}.{i}", 2 if i == 0 and stage > 1 else 1
                width = 4 + 2 * stage
                out = 4 * width if bottleneck else width
                if bottleneck:
                    y = F.relu(net.conv(x, f"{own}.conv1 {own}.bn1", width))
                    y = F.relu(net.conv(y, f"{own}.conv2 {own}.bn2", width, 3, stride))
                    y = net.conv(y, f"{own}.conv3 {own}.bn3", out)
                else:
                    y = F.relu(net.conv(x, f"{own}.conv1 {own}.bn1", width, 3, stride))
                    y = net.conv(y, f"{own}.conv2 {own}.bn2", out, 3)
                if stride > 1 or x.shape[1] != out:
                    x = net.conv(x, f"{own}.downsample.0 {own}.downsample.1", out, 1, stride)
                x = F.relu(x + y)
        return net.head(x, "fc")

    return run


Plain = Callable[[Network, Tensor], Tensor]
