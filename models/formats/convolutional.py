"""What readers of convolutional checkpoints share: state dicts, rounding, and how a model is made.

A file holds a state dict, as safetensors or as `torch.save` wrote it. Of the latter only tensors
are read, never code (``weights_only``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.families.convnet import Convnet, ConvnetConfig
from models.files import reading
from models.formats.folder import FormatError
from models.inputs.image import ImageInput
from models.nn.blocks import BlockConfig, UnitConfig

IMAGENET = ImageInput(224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_WITHIN = ("state_dict", "model", "net")  # where training scripts put a state dict
_PARALLEL = "module."  # before every name that `DataParallel` saved


class Names(NamedTuple):
    """What a unit's tensors are called in the file.

    Attributes:
        conv: Of the convolution, without ``.weight``.
        norm: Of the normalisation, likewise.
        squeeze: Of the squeeze-excitation; None where there is none.
    """

    conv: str
    norm: str
    squeeze: str | None = None


@dataclass(frozen=True)
class Norm:
    """A unit's normalisation.

    Attributes:
        affine: Scale and shift, shape [1 or sets, 2, channels].
        statistics: Mean and variance, shape [sets, 2, channels].
    """

    affine: Tensor
    statistics: Tensor


class StateDict:
    """The tensors of a file, each taken once, in float32."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self._tensors = dict(tensors)

    def has(self, name: str) -> bool:
        """Return whether there is a tensor of a name."""
        return name in self._tensors

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return the shape of a tensor, for sizes that nothing else says.

        Raises:
            FormatError: If it is missing, or has another number of dimensions.
        """
        found = tuple(self._get(name).shape)
        if len(found) != dimensions:
            raise FormatError(
                f"{self.path}: tensor {name!r} has shape {list(found)}; {dimensions} dimensions "
                "are needed"
            )
        return found

    def rows(self, name: str) -> int:
        """Return the length of a tensor, for a size that nothing else says.

        Raises:
            FormatError: If it is missing.
        """
        return len(self._get(name))

    def count(self, prefix: str) -> int:
        """Return one more than the greatest number that follows a prefix; 0 if none does."""
        parts = (
            n.removeprefix(prefix).split(".")[0] for n in self._tensors if n.startswith(prefix)
        )
        return 1 + max((int(part) for part in parts if part.isdigit()), default=-1)

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of the given shape and count it as used.

        Raises:
            FormatError: If it is missing, of another shape or holds what is no number.
        """
        tensor = self._get(name)
        del self._tensors[name]
        if tensor.shape != shape:
            raise FormatError(
                f"{self.path}: tensor {name!r} has shape {list(tensor.shape)}, not {list(shape)}"
            )
        tensor = tensor.to(torch.float32)
        if not tensor.isfinite().all():
            raise FormatError(f"{self.path}: tensor {name!r} holds a value that is not finite")
        return tensor

    def pair(self, norm: str, first: str, second: str, channels: int) -> Tensor:
        """Return two vectors of a normalisation, shape [2, channels]; errors as `take`."""
        return torch.stack([self.take(f"{norm}.{part}", channels) for part in (first, second)])

    def finish(self) -> None:
        """Refuse tensors that were not taken, but for counts of batches.

        Raises:
            FormatError: Naming the first.
        """
        for name in sorted(self._tensors):
            if not name.endswith("num_batches_tracked"):
                raise FormatError(f"{self.path}: tensor {name!r} is not part of the model")

    def _get(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise FormatError(f"{self.path}: tensor {name!r} is missing")
        return self._tensors[name]


def read_state(path: Path, rename: Callable[[str], str] = lambda name: name) -> StateDict:
    """Read a state dict, bare or within what a training script saved.

    Args:
        path: Of the file; safetensors if its name ends so, else one of `torch.save`.
        rename: Of each name, without the prefix of a parallel run.

    Raises:
        FormatError: If the file is missing, damaged, holds more than tensors, or two tensors get
            one name.
    """
    with reading(path, FormatError):
        if not path.is_file():
            raise FormatError(f"{path} does not exist")
        if path.suffix == ".safetensors":
            values: Any = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
        for name in _WITHIN:
            if isinstance(values, Mapping) and isinstance(values.get(name), Mapping):
                values = values[name]
        if not isinstance(values, Mapping) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
        ):
            raise FormatError(f"{path}: no state dict: it must hold named tensors only")
        found: dict[str, Tensor] = {}
        for name, tensor in values.items():
            renamed = rename(name.removeprefix(_PARALLEL))
            if renamed in found:
                raise FormatError(f"{path}: two tensors are {renamed!r}; one is {name!r}")
            found[renamed] = tensor
        return StateDict(path, found)


def make_divisible(value: float, least: int = 8) -> int:
    """Return the multiple of 8 nearest to a number of channels, not less than 90 % of it.

    Args:
        value: Channels, not rounded.
        least: Result at the least.
    """
    found = max(least, int(value + 4) // 8 * 8)
    return found + 8 if found < 0.9 * value else found


def build(
    name: str,
    config: ConvnetConfig,
    state: StateDict,
    names: Sequence[Sequence[Names]],
    kernels: Callable[[UnitConfig, Names, tuple[int, ...]], Mapping[int, Tensor]],
    norm: Callable[[UnitConfig, Names, int], Norm],
    head: Mapping[str, Tensor],
) -> Convnet:
    """Make a model of a file's tensors.

    Args:
        name: What clients call the model.
        config: Of the model.
        state: Of the file; all of it must be used.
        names: Of each block's units, that of the shortcut last.
        kernels: Function of a unit, its names and the shape of its largest weight; the weight for
            each size of kernel.
        norm: Function of a unit, its names and its channels.
        head: The head's tensors under our names.

    Returns:
        In evaluation mode.

    Raises:
        FormatError: If a tensor is missing, of another shape or not used.
    """
    ours = {f"head.{part}": tensor for part, tensor in head.items()}
    channels = 3
    for b, (block, of_block) in enumerate(zip(config.blocks, names, strict=True)):
        before = channels
        for u, (unit, of_unit) in enumerate(zip(block.normalised, of_block, strict=True)):
            inputs = before if u == len(block.units) else channels
            out = inputs if unit.out is None else max(unit.out.values)
            size = max(unit.kernel.values)
            shape = (out, 1 if unit.out is None else inputs, size, size)
            place = f"blocks.{b}.units.{u}"
            for kernel, weight in kernels(unit, of_unit, shape).items():
                ours[f"{place}.kernels.{kernel}"] = weight
            found = norm(unit, of_unit, out)
            ours[f"{place}.affine"], ours[f"{place}.statistics"] = found.affine, found.statistics
            if unit.squeeze is not None and of_unit.squeeze is not None:
                ours |= _squeeze(state, place, of_unit.squeeze, out, max(unit.squeeze.values))
            if u < len(block.units):
                channels = out
    state.finish()
    with torch.device("meta"):  # every weight is replaced
        model = Convnet(name, config)
    model.load_state_dict(ours, assign=True)
    return model.eval().requires_grad_(False)


def _squeeze(
    state: StateDict, place: str, names: str, channels: int, inner: int
) -> dict[str, Tensor]:
    """Return a squeeze-excitation, which files hold as 1x1 convolutions."""
    found = {}
    for part, out, inputs in (("reduce", inner, channels), ("expand", channels, inner)):
        weight = state.take(f"{names}.{part}.weight", out, inputs, 1, 1)
        found[f"{place}.{part}.weight"] = weight[:, :, 0, 0].contiguous()
        found[f"{place}.{part}.bias"] = state.take(f"{names}.{part}.bias", out)
    return found


def labels_of(labels: Iterable[str] | None, count: int) -> tuple[str, ...]:
    """Return the class names; numbers if there are none.

    Raises:
        FormatError: If their number is not that of the classes.
    """
    found = tuple(map(str, range(count))) if labels is None else tuple(labels)
    if len(found) != count:
        raise FormatError(f"{len(found)} labels; the classifier has {count} classes")
    return found


def in_channels(blocks: Sequence[BlockConfig]) -> int:
    """Return the greatest number of channels that leave the last block."""
    channels = 3
    for block in blocks:
        for unit in block.units:
            channels = channels if unit.out is None else max(unit.out.values)
    return channels
