"""What a block of convolutions is: sizes that depend on choices, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import ConfigDict

from models.nn.quantized import linear_bytes
from models.space import Value

Activation: TypeAlias = Literal["none", "relu", "relu6", "hardswish"]
Places: TypeAlias = Mapping[str, Mapping[Value, int]]
"""By name of an axis, the position of each of its values."""


@dataclass(frozen=True)
class SizeTable:
    """A whole number that depends on choices, as a table.

    Attributes:
        values: By position on the axes, the first axis changing slowest.
        axes: Names; none for a number that is always the same.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    values: tuple[int, ...]
    axes: tuple[str, ...] = ()

    def at(self, choices: Mapping[str, Value], places: Places) -> int:
        """Return the number for choices."""
        i = 0
        for axis in self.axes:
            i = i * len(places[axis]) + places[axis][choices[axis]]
        return self.values[i]

    def check(self, name: str, axes: Mapping[str, Sequence[Value]]) -> None:
        """Refuse a table that does not fit some axes; ValueError naming it and what is allowed."""
        if unknown := [axis for axis in self.axes if axis not in axes]:
            raise ValueError(f"{name}: unknown axis {unknown[0]!r}; one of {list(axes)}")
        expected = prod(len(axes[axis]) for axis in self.axes)
        if len(self.values) != expected or min(self.values) < 0:
            raise ValueError(f"{name}={self.values} must be {expected} numbers of 0 or more")


@dataclass(frozen=True)
class UnitConfig:
    """One convolution with what follows it.

    Attributes:
        out: Channels; None for a depthwise convolution, which keeps those that come in.
        kernel: Height and width, odd; each size has weights of its own.
        stride: Of the convolution.
        activation: After the normalisation.
        squeeze: Inner channels of a squeeze-excitation after the activation; None for none.
        padding: ``half``: half a kernel on each side. ``same``: as TensorFlow pads, which with a
            stride puts the odd pixel at the end.
        fitted: Whether each set of statistics has weights and a bias of its own instead, fitted to
            what comes in there. The normalisation is part of them.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    out: SizeTable | None
    kernel: SizeTable = SizeTable((1,))  # immutable
    stride: int = 1
    activation: Activation = "none"
    squeeze: SizeTable | None = None
    padding: Literal["half", "same"] = "half"
    fitted: bool = False

    def choice(self, inputs: int, choices: Mapping[str, Value], places: Places) -> UnitChoice:
        """Return what is chosen of it, where so many channels come in."""
        out = inputs if self.out is None else self.out.at(choices, places)
        squeeze = 0 if self.squeeze is None else self.squeeze.at(choices, places)
        return UnitChoice(inputs, out, self.kernel.at(choices, places), squeeze)


@dataclass(frozen=True)
class BlockConfig:
    """Units one after the other, and what is added to what they give.

    Attributes:
        units: At least one.
        shortcut: ``none``; ``identity``; ``conv``: a normalised 1x1 convolution of the units'
            stride; ``pool-conv``: the mean of stride x stride pixels, then such a convolution of
            stride 1.
        activation: After the addition.
        pool: Whether the greatest of 3x3 pixels, with stride 2, follows.
        active: 1 where the block is run, 0 where it is left out.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    units: tuple[UnitConfig, ...]
    shortcut: Literal["none", "identity", "conv", "pool-conv"] = "none"
    activation: Activation = "none"
    pool: bool = False
    active: SizeTable = SizeTable((1,))  # immutable

    def __post_init__(self) -> None:
        """Refuse a block that cannot be built.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        if not self.units:
            raise ValueError("units is empty; at least one is needed")
        for unit in self.units:
            if any(kernel % 2 == 0 for kernel in unit.kernel.values):
                raise ValueError(f"kernel={unit.kernel.values} must be odd")
            if unit.fitted and unit.out is None:
                raise ValueError("fitted=True must not be of a depthwise convolution")
            if unit.stride < 1:
                raise ValueError(f"stride={unit.stride} must be 1 or more")
        if not set(self.active.values) <= {0, 1}:
            raise ValueError(f"active={self.active.values} must be 0 or 1")
        if self.shortcut == "identity" and self.stride != 1:
            raise ValueError(f"shortcut='identity' with stride={self.stride} must have stride 1")

    @property
    def sizes(self) -> Iterator[tuple[str, SizeTable]]:
        """Every number that may be chosen, with its name."""
        yield "active", self.active
        for i, unit in enumerate(self.units):
            parts = {"out": unit.out, "kernel": unit.kernel, "squeeze": unit.squeeze}
            for name, size in parts.items():
                if size is not None:
                    yield f"units.{i}.{name}", size

    @property
    def stride(self) -> int:
        """Of all units together."""
        stride = 1
        for unit in self.units:
            stride *= unit.stride
        return stride

    @property
    def shortcut_unit(self) -> UnitConfig | None:
        """The convolution of the shortcut, if there is one."""
        if self.shortcut not in ("conv", "pool-conv"):
            return None
        return UnitConfig(self.units[-1].out, stride=self.stride if self.shortcut == "conv" else 1)

    @property
    def normalised(self) -> tuple[UnitConfig, ...]:
        """All its units, that of the shortcut last."""
        shortcut = self.shortcut_unit
        return self.units if shortcut is None else (*self.units, shortcut)


class UnitChoice(NamedTuple):
    """What was chosen for a unit.

    Attributes:
        inputs: Channels that come in.
        out: Channels that go out.
        kernel: Height and width.
        squeeze: Inner channels of the squeeze-excitation; 0 for none.
    """

    inputs: int
    out: int
    kernel: int
    squeeze: int = 0


class BlockChoice(NamedTuple):
    """A block that is run, and how.

    Attributes:
        block: Its number.
        choices: Of its units, that of the shortcut last.
        number: Of its set of statistics; -1 if there is none.
    """

    block: int
    choices: tuple[UnitChoice, ...]
    number: int = -1


def unit_macs(config: UnitConfig, choice: UnitChoice, pixels: int) -> int:
    """Return the multiply-accumulates of a unit for one image, of so many pixels as come out."""
    inputs = 1 if config.out is None else choice.inputs
    return choice.kernel**2 * inputs * choice.out * pixels + 2 * choice.out * choice.squeeze


def unit_parameters(config: UnitConfig, choice: UnitChoice) -> int:
    """Return the parameters of a unit cut to a choice; statistics are none."""
    weights = unit_macs(config, choice, 1)
    biases = choice.out + choice.squeeze if choice.squeeze else 0
    return weights + (1 if config.fitted else 2) * choice.out + biases


def unit_bytes(config: UnitConfig, choice: UnitChoice, bits: int) -> int:
    """Return the bytes of a unit cut to a choice, with one set of statistics, in 8 or 32 bits."""
    found = 4 * (unit_parameters(config, choice) + (0 if config.fitted else 2 * choice.out))
    taken = choice.kernel**2 * (1 if config.out is None else choice.inputs)
    return found + linear_bytes(taken, choice.out, bits) - linear_bytes(taken, choice.out, 32)
