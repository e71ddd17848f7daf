"""Reads once-for-all supernets of ResNet-50, as `torch.save` or safetensors wrote them.

As for MobileNetV3 (`models.formats.once_for_all`), what was trained is not in the file, and a
subnet's statistics are estimated on images. Widths cross from stage to stage through shortcuts that
take means and convolve.

Source: Cai et al. 2020, Once-for-All, arXiv 1908.09791.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from models.families.convnet import Convnet, ConvnetConfig
from models.formats.convolutional import (
    IMAGENET,
    Names,
    in_channels,
    labels_of,
    make_divisible,
    read_state,
)
from models.formats.once_for_all import (
    block_axis,
    build_supernet,
    depth_axis,
    fixed,
    renamed,
    take_classifier,
)
from models.inputs.image import ImageInput
from models.nn.blocks import BlockConfig, SizeTable, UnitConfig

EXPANSIONS, WIDTHS = (0.2, 0.25, 0.35), (0.65, 0.8, 1.0)
_BASE, _MORE, _STRIDES = (2, 2, 4, 2), 2, (1, 2, 2, 2)


def choices(
    d: Sequence[int], e: Sequence[float], w: Sequence[int], widths: Sequence[float] = WIDTHS
) -> dict[str, int | float]:
    """Return what the published spelling of a ResNet-50 subnet means.

    Args:
        d: Whether the stem keeps its second layer (2, else it does not), and each stage's depth.
        e: Expansion of every block.
        w: Positions among the width multipliers: stem's inside, stem, and stages.
        widths: The multipliers.
    """
    found: dict[str, int | float] = {"stem.depth": 2 if d[0] == _MORE else 0}
    found |= {"stem.inner": widths[w[0]], "stem.width": widths[w[1]]}
    expansions = iter(e)
    for s, base in enumerate(_BASE):
        found |= {depth_axis(s + 1): d[s + 1], f"stage{s + 1}.width": widths[w[s + 2]]}
        for i in range(base + _MORE):
            found[block_axis(s + 1, i + 1, "expand")] = next(expansions)
    return found


def read(
    path: Path,
    name: str,
    labels: Sequence[str] | None = None,
    image: ImageInput = IMAGENET,
    expansions: Sequence[float] = EXPANSIONS,
    widths: Sequence[float] = WIDTHS,
) -> Convnet:
    """Read a ResNet-50 supernet; its subnets have no statistics yet.

    Args:
        path: Of the file.
        name: What clients call the model.
        labels: Class names; None for numbers.
        image: Size and normalisation of the images.
        expansions: Trained inner channels as shares of a block's, ascending.
        widths: Trained width multipliers, ascending, the last 1: that of the file.

    Raises:
        FormatError: If a tensor is missing, of another shape or not part of the model.
    """
    state = read_state(path, renamed)
    firsts = [sum(base + _MORE for base in _BASE[:s]) for s in range(4)]
    config = config_of(
        state.rows("input_stem.2.conv.weight"),
        [state.rows(f"blocks.{i}.conv3.conv.weight") for i in firsts],
        labels_of(labels, state.rows("classifier.linear.weight")),
        image,
        expansions,
        widths,
    )
    stems = ("input_stem.0", "input_stem.1.conv", "input_stem.2")
    names = [[Names(f"{at}.conv", f"{at}.bn")] for at in stems]
    for i, block in enumerate(config.blocks[len(stems) :]):
        parts = ("conv1", "conv2", "conv3", "downsample")[: len(block.normalised)]
        places = [f"blocks.{i}.{part}" for part in parts]
        names.append([Names(f"{at}.conv", f"{at}.bn") for at in places])
    head = take_classifier(state, len(config.labels), in_channels(config.blocks))
    return build_supernet(name, config, state, names, head)


def config_of(
    stem: int,
    stages: Sequence[int],
    labels: tuple[str, ...],
    image: ImageInput = IMAGENET,
    expansions: Sequence[float] = EXPANSIONS,
    widths: Sequence[float] = WIDTHS,
) -> ConvnetConfig:
    """Return the configuration of a ResNet-50 supernet; widths are those at multiplier 1."""
    axes: dict[str, tuple[int | float, ...]] = {"stem.depth": (0, _MORE)}
    axes |= {"stem.inner": tuple(widths), "stem.width": tuple(widths)}
    outer = [make_divisible(stem * w) for w in widths]
    inner = SizeTable(tuple(make_divisible(one // 2) for one in outer), ("stem.inner",))
    unit = UnitConfig(inner, fixed(3), 1, "relu")
    last = UnitConfig(SizeTable(tuple(outer), ("stem.width",)), fixed(3), 1, "relu")
    blocks = [
        BlockConfig((UnitConfig(inner, fixed(3), 2, "relu"),)),
        BlockConfig((unit,), "identity", active=SizeTable((0, 1), ("stem.depth",))),
        BlockConfig((last,), pool=True),
    ]
    for s, (full, base) in enumerate(zip(stages, _BASE, strict=True)):
        width, depth = f"stage{s + 1}.width", depth_axis(s + 1)
        axes |= {depth: tuple(range(_MORE + 1)), width: tuple(widths)}
        out = [make_divisible(full * w) for w in widths]
        for i in range(base + _MORE):
            expand = block_axis(s + 1, i + 1, "expand")
            axes[expand] = tuple(expansions)
            mid = [make_divisible(round(o * ratio)) for o, ratio in product(out, expansions)]
            squeezed = SizeTable(tuple(mid), (width, expand))
            units = (
                UnitConfig(squeezed, activation="relu"),
                UnitConfig(squeezed, fixed(3), _STRIDES[s] if i == 0 else 1, "relu"),
                UnitConfig(SizeTable(tuple(out), (width,))),
            )
            active = tuple(int(i < base + more) for more in range(_MORE + 1))
            blocks.append(
                BlockConfig(
                    units,
                    "identity" if i else "pool-conv",
                    "relu",
                    active=SizeTable(active, (depth,)),
                )
            )
    return ConvnetConfig(labels, image, axes, tuple(blocks))
