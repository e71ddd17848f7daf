"""Layouts of convolutional classifiers of torchvision and timm: which tensor is which unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from models.formats.convolutional import Names, StateDict
from models.formats.folder import FormatError
from models.nn.blocks import Activation, BlockConfig, SizeTable, UnitConfig

_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of MobileNetV2's and EfficientNet's stages
_MOBILENET = (1, 2, 3, 4, 3, 3, 1)  # blocks of each stage
_LITE = {  # of EfficientNet-Lite, by their number
    16: (1, 2, 2, 3, 3, 4, 1),
    21: (1, 3, 3, 4, 4, 5, 1),
    24: (1, 3, 3, 5, 5, 6, 1),
    30: (1, 4, 4, 6, 6, 8, 1),
}


@dataclass
class Draft:
    """What a file's names say, block by block.

    Attributes:
        state: Of the file.
        padding: Of convolutions with a stride.
        blocks: So far.
        names: Of their tensors.
        channels: That leave the last block.
    """

    state: StateDict
    padding: Literal["half", "same"] = "half"
    blocks: list[BlockConfig] = field(default_factory=list)
    names: list[list[Names]] = field(default_factory=list)
    channels: int = 3

    def unit(
        self, conv: str, stride: int = 1, activation: Activation = "none", depthwise: bool = False
    ) -> UnitConfig:
        """Return a unit whose sizes are those of its weight."""
        out, _, size, _ = self.state.shape(f"{conv}.weight", 4)
        kernel = SizeTable((size,))
        channels = None if depthwise else SizeTable((out,))
        return UnitConfig(channels, kernel, stride, activation, padding=self.padding)

    def add(self, block: BlockConfig, names: list[Names]) -> None:
        """Add a block."""
        self.blocks.append(block)
        self.names.append(names)
        for unit in block.units:
            self.channels = self.channels if unit.out is None else unit.out.values[0]

    def inverted(self, names: list[Names], stride: int, expands: bool) -> None:
        """Add an inverted residual block: expansion, depthwise convolution, projection."""
        units = [self.unit(names[0].conv, 1, "relu6")] if expands else []
        units.append(self.unit(names[-2].conv, stride, "relu6", depthwise=True))
        units.append(self.unit(names[-1].conv))
        last = units[-1].out
        is_same = stride == 1 and last is not None and last.values[0] == self.channels
        self.add(BlockConfig(tuple(units), "identity" if is_same else "none"), names)


def _torchvision_mobilenet(draft: Draft) -> str:
    stem = Names("features.0.0", "features.0.1")
    draft.add(BlockConfig((draft.unit(stem.conv, 2, "relu6"),)), [stem])
    count = draft.state.count("features.") - 2
    if count != sum(_MOBILENET):
        raise FormatError(
            f"{draft.state.path}: {count} blocks; allowed: the {sum(_MOBILENET)} of MobileNetV2"
        )
    for i, stride in enumerate(_strides(_MOBILENET), 1):  # the first has no expansion
        own = f"features.{i}.conv"
        norms = [Names(f"{own}.{j}.0", f"{own}.{j}.1") for j in range(1 if i == 1 else 2)]
        last = len(norms)
        norms.append(Names(f"{own}.{last}", f"{own}.{last + 1}"))
        draft.inverted(norms, stride, expands=i > 1)
    head = Names(f"features.{count + 1}.0", f"features.{count + 1}.1")
    draft.add(BlockConfig((draft.unit(head.conv, 1, "relu6"),)), [head])
    return "classifier.1"


def _timm_inverted(draft: Draft) -> str:
    stem, head = Names("conv_stem", "bn1"), Names("conv_head", "bn2")
    draft.add(BlockConfig((draft.unit(stem.conv, 2, "relu6"),)), [stem])
    if (stages := draft.state.count("blocks.")) != len(_STRIDES):
        raise FormatError(f"{draft.state.path}: {stages} stages; allowed: {len(_STRIDES)}")
    for stage in range(stages):
        for i in range(draft.state.count(f"blocks.{stage}.")):
            own = f"blocks.{stage}.{i}"
            stride = _STRIDES[stage] if i == 0 else 1
            parts = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
            names = [Names(f"{own}.{part}", f"{own}.bn{j}") for j, part in enumerate(parts, 1)]
            draft.inverted(names, stride, expands=stage > 0)
    draft.add(BlockConfig((draft.unit(head.conv, 1, "relu6"),)), [head])
    return "classifier"


def _efficientnet_lite(draft: Draft) -> str:
    stem, head = Names("_conv_stem", "_bn0"), Names("_conv_head", "_bn1")
    draft.add(BlockConfig((draft.unit(stem.conv, 2, "relu6"),)), [stem])
    count = draft.state.count("_blocks.")
    if count not in _LITE:
        raise FormatError(f"{draft.state.path}: {count} blocks; allowed: {list(_LITE)}")
    for i, stride in enumerate(_strides(_LITE[count])):
        own = f"_blocks.{i}"
        expands = draft.state.has(f"{own}._expand_conv.weight")
        names = [Names(f"{own}._expand_conv", f"{own}._bn0")] if expands else []
        names.append(Names(f"{own}._depthwise_conv", f"{own}._bn1"))
        names.append(Names(f"{own}._project_conv", f"{own}._bn2"))
        draft.inverted(names, stride, expands)
    draft.add(BlockConfig((draft.unit(head.conv, 1, "relu6"),)), [head])
    return "_fc"


def _strides(repeats: Sequence[int]) -> list[int]:
    """Return the stride of each block: that of its stage if it is the first of it, else 1."""
    return [
        stride if i == 0 else 1
        for count, stride in zip(repeats, _STRIDES, strict=True)
        for i in range(count)
    ]


def _resnet(draft: Draft) -> str:
    stem = Names("conv1", "bn1")
    draft.add(BlockConfig((draft.unit(stem.conv, 2, "relu"),), pool=True), [stem])
    for stage in range(1, 5):
        for i in range(draft.state.count(f"layer{stage}.")):
            own, stride = f"layer{stage}.{i}", 2 if i == 0 and stage > 1 else 1
            convs = [j for j in (1, 2, 3) if draft.state.has(f"{own}.conv{j}.weight")]
            names = [Names(f"{own}.conv{j}", f"{own}.bn{j}") for j in convs]
            strided = len(convs) - 2  # of a bottleneck the 3x3, else the first
            units = tuple(
                draft.unit(
                    one.conv,
                    stride if j == strided else 1,
                    "none" if j == len(names) - 1 else "relu",
                )
                for j, one in enumerate(names)
            )
            is_same = not draft.state.has(f"{own}.downsample.0.weight")
            if not is_same:
                names.append(Names(f"{own}.downsample.0", f"{own}.downsample.1"))
            shortcut: Literal["identity", "conv"] = "identity" if is_same else "conv"
            draft.add(BlockConfig(units, shortcut, "relu"), names)
    return "fc"


READERS: Mapping[str, Callable[[Draft], str]] = {
    "torchvision-mobilenet-v2": _torchvision_mobilenet,
    "timm-mobilenet-v2": _timm_inverted,
    "timm-efficientnet-lite": _timm_inverted,
    "timm-tf-efficientnet-lite": _timm_inverted,
    "efficientnet-lite-pytorch": _efficientnet_lite,
    "resnet": _resnet,
}
