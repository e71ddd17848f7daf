"""Reads once-for-all supernets of MobileNetV3, as `torch.save` or safetensors wrote them.

A file holds the weights of the largest network. Which kernels, expansions and depths were trained
is not in it; the defaults are those of the published networks. Its running statistics belong to
the largest network in training, so they are left: a subnet's are estimated on images
(`models.train.statistics`) and kept with it.

A smaller depthwise kernel is no cut of the larger one: its taps are the centre of the larger one's,
mapped by a learned matrix that all channels share, from 7 to 5 and from there to 3.

Source: Cai et al. 2020, Once-for-All, arXiv 1908.09791.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.convnet import Convnet, ConvnetConfig
from models.formats.convolutional import (
    IMAGENET,
    Names,
    Norm,
    StateDict,
    build,
    in_channels,
    labels_of,
    make_divisible,
    read_state,
)
from models.formats.folder import FormatError
from models.inputs.image import ImageInput
from models.nn.blocks import Activation, BlockConfig, SizeTable, UnitConfig

KERNELS, EXPANSIONS, DEPTHS = (3, 5, 7), (3, 4, 6), (2, 3, 4)
_MOBILE_STRIDES = (2, 2, 2, 1, 2)
_MOBILE_ACTIVATIONS: tuple[Activation, ...] = (
    "relu",
    "relu",
    "hardswish",
    "hardswish",
    "hardswish",
)
_MOBILE_SQUEEZES = (False, True, False, True, True)


def depth_axis(stage: int) -> str:
    """Return the name of a stage's depth axis; stages count from 1."""
    return f"stage{stage}.depth"


def block_axis(stage: int, block: int, what: str) -> str:
    """Return the name of a block's axis; both count from 1."""
    return f"stage{stage}.block{block}.{what}"


def choices(ks: Sequence[int], e: Sequence[int], d: Sequence[int]) -> dict[str, int]:
    """Return what the published spelling of a MobileNetV3 subnet means.

    Args:
        ks: Kernel size of every block, stage by stage; a stage has as many as its greatest depth.
        e: Expansion of every block.
        d: Depth of every stage. What is said of a block beyond it makes no difference.
    """
    per_stage = len(ks) // len(d)
    found = {depth_axis(s + 1): depth for s, depth in enumerate(d)}
    for b, (kernel, expansion) in enumerate(zip(ks, e, strict=True)):
        at = (b // per_stage + 1, b % per_stage + 1)
        found |= {block_axis(*at, "kernel"): kernel, block_axis(*at, "expand"): expansion}
    return found


def read(
    path: Path,
    name: str,
    labels: Sequence[str] | None = None,
    image: ImageInput = IMAGENET,
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[int] = EXPANSIONS,
    depths: Sequence[int] = DEPTHS,
) -> Convnet:
    """Read a MobileNetV3 supernet; its subnets have no statistics yet.

    Args:
        path: Of the file.
        name: What clients call the model.
        labels: Class names; None for numbers.
        image: Size and normalisation of the images.
        kernels: Trained kernel sizes, ascending, the last that of the file.
        expansions: Trained expansions, ascending, the last that of the file.
        depths: Trained depths of a stage, ascending, the last that of the file.

    Raises:
        FormatError: If a tensor is missing, of another shape or not part of the model.
    """
    state = read_state(path, renamed)
    count = state.count("blocks.")
    if count != 1 + depths[-1] * len(_MOBILE_STRIDES):
        raise FormatError(
            f"{path}: {count} blocks; five stages of depth {depths[-1]} and one more are needed"
        )
    widths = [state.rows(f"blocks.{i}.conv.point_linear.conv.weight") for i in range(count)]
    config = config_of(
        [state.rows("first_conv.conv.weight"), widths[0], *widths[1 :: depths[-1]]],
        state.rows("final_expand_layer.conv.weight"),
        state.rows("feature_mix_layer.conv.weight"),
        labels_of(labels, state.rows("classifier.linear.weight")),
        image,
        kernels,
        expansions,
        depths,
    )
    names = [[Names("first_conv.conv", "first_conv.bn")]]
    for i, block in enumerate(config.blocks[1:-1]):
        parts = ("inverted_bottleneck", "depth_conv", "point_linear")[-len(block.units) :]
        names.append(
            [
                Names(f"{at}.conv", f"{at}.bn", f"{at}.se.fc")
                for at in (f"blocks.{i}.conv.{part}" for part in parts)
            ]
        )
    names.append([Names("final_expand_layer.conv", "final_expand_layer.bn")])
    last, mixed = in_channels(config.blocks), config.hidden or 0
    mix = state.take("feature_mix_layer.conv.weight", mixed, last, 1, 1)[:, :, 0, 0]
    head = {"mix.weight": mix.contiguous(), **take_classifier(state, len(config.labels), mixed)}
    return build_supernet(name, config, state, names, head)


def config_of(
    widths: Sequence[int],
    expanded: int,
    mixed: int,
    labels: tuple[str, ...],
    image: ImageInput = IMAGENET,
    kernels: Sequence[int] = KERNELS,
    expansions: Sequence[int] = EXPANSIONS,
    depths: Sequence[int] = DEPTHS,
) -> ConvnetConfig:
    """Return the configuration of a MobileNetV3 supernet.

    Args:
        widths: Channels of the first convolution, the first block and the five stages.
        expanded: Channels before the mean over all pixels.
        mixed: Width of the layer after it.
        labels: Class names.
        image: As for `read`.
        kernels: Likewise.
        expansions: Likewise.
        depths: Likewise.
    """
    axes: dict[str, tuple[int | float, ...]] = {
        depth_axis(stage): tuple(depths) for stage in range(1, len(_MOBILE_STRIDES) + 1)
    }
    stem = UnitConfig(fixed(widths[0]), fixed(3), 2, "hardswish")
    first = (UnitConfig(None, fixed(3), 1, "relu"), UnitConfig(fixed(widths[1])))
    shortcut = "identity" if widths[0] == widths[1] else "none"
    blocks = [BlockConfig((stem,)), BlockConfig(first, shortcut)]  # type: ignore[arg-type]
    channels = widths[1]
    for s, width in enumerate(widths[2:]):
        for i in range(depths[-1]):
            stride = _MOBILE_STRIDES[s] if i == 0 else 1
            axis = {part: block_axis(s + 1, i + 1, part) for part in ("kernel", "expand")}
            axes |= {axis["kernel"]: tuple(kernels), axis["expand"]: tuple(expansions)}
            inner = [make_divisible(round(channels * ratio)) for ratio in expansions]
            squeeze = [make_divisible(one // 4) for one in inner]
            act, own = _MOBILE_ACTIVATIONS[s], (axis["expand"],)
            units = (
                UnitConfig(SizeTable(tuple(inner), own), activation=act),
                UnitConfig(
                    None,
                    SizeTable(tuple(kernels), (axis["kernel"],)),
                    stride,
                    act,
                    SizeTable(tuple(squeeze), own) if _MOBILE_SQUEEZES[s] else None,
                ),
                UnitConfig(fixed(width)),
            )
            is_same = stride == 1 and channels == width
            active = SizeTable(tuple(int(depth > i) for depth in depths), (depth_axis(s + 1),))
            blocks.append(BlockConfig(units, "identity" if is_same else "none", active=active))
            channels = width
    blocks.append(BlockConfig((UnitConfig(fixed(expanded), activation="hardswish"),)))
    return ConvnetConfig(
        labels, image, axes, tuple(blocks), hidden=mixed, hidden_activation="hardswish"
    )


def kernels_of(largest: Tensor, matrices: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the depthwise kernels of every size.

    Args:
        largest: Shape [channels, 1, size, size].
        matrices: By the size that comes out, descending, shape [size^2, size^2]; each maps the
            centre of the next larger kernel.
    """
    found = {largest.shape[-1]: largest}
    kernel = largest
    for size, matrix in matrices.items():
        edge = (kernel.shape[-1] - size) // 2
        centre = kernel[:, :, edge : edge + size, edge : edge + size]
        kernel = F.linear(centre.reshape(len(kernel), size**2), matrix)
        kernel = kernel.view(len(largest), 1, size, size)
        found[size] = kernel
    return found


def build_supernet(
    name: str,
    config: ConvnetConfig,
    state: StateDict,
    names: Sequence[Sequence[Names]],
    head: Mapping[str, Tensor],
) -> Convnet:
    """Make a model of a supernet's tensors, its kernels of every size computed.

    Args:
        name: What clients call the model.
        config: Of the model.
        state: Of the file.
        names: Of each block's units, that of the shortcut last.
        head: The head's tensors under our names.

    Raises:
        FormatError: If a tensor is missing, of another shape or not used.
    """

    def kernels(unit: UnitConfig, of: Names, shape: tuple[int, ...]) -> Mapping[int, Tensor]:
        largest = state.take(f"{of.conv}.weight", *shape)
        sizes = sorted(set(unit.kernel.values), reverse=True)
        matrices = {
            small: state.take(f"{of.conv}.{large}to{small}_matrix", small**2, small**2)
            for large, small in pairwise(sizes)
        }
        return kernels_of(largest, matrices)

    def norm(unit: UnitConfig, of: Names, channels: int) -> Norm:
        affine = state.pair(of.norm, "weight", "bias", channels)[None]
        state.pair(of.norm, "running_mean", "running_var", channels)  # of no subnet
        return Norm(affine, torch.zeros(0, 2, channels))

    return build(name, config, state, names, kernels, norm, head)


def take_classifier(state: StateDict, labels: int, channels: int) -> dict[str, Tensor]:
    """Return the classifier's tensors under our names."""
    return {
        "classifier.weight": state.take("classifier.linear.weight", labels, channels),
        "classifier.bias": state.take("classifier.linear.bias", labels),
    }


def fixed(value: int) -> SizeTable:
    """Return a size that is always the same."""
    return SizeTable((value,))


def renamed(name: str) -> str:
    """Return the short form of a name; files have either, and an older one for blocks."""
    name = name.replace(".mobile_inverted_conv.", ".conv.")
    name = name.replace(".bn.bn.", ".bn.").replace(".linear.linear.", ".linear.")
    if name.startswith("input_stem.1."):  # a block around a layer: one more step down
        return re.sub(r"\.conv\.conv\.conv\.weight$", ".conv.conv.weight", name)
    return re.sub(r"\.conv\.conv\.weight$", ".conv.weight", name)
