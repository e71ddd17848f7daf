"""What every reader needs of a public folder: checked JSON fields and named tensors.

Tensors come from safetensors files only. Whatever cannot be expressed is refused with the file, the
field or tensor, its value and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.files import read_json, reading
from models.inputs.text import TOKENIZER

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_OLD_NORMS = ((".gamma", ".weight"), (".beta", ".bias"))  # names of the first BERT checkpoints

T = TypeVar("T")


class FormatError(ValueError):
    """A public folder cannot be read exactly. The message names the file and what is wrong."""


class Fields:
    """A JSON object that knows its file, so that errors can say where a value is."""

    def __init__(self, path: Path, values: Mapping[str, Any], place: str = "") -> None:
        self.path = path
        self.values = values
        self._place = place

    @classmethod
    def read(cls, path: Path) -> Fields:
        """Read a JSON object.

        Raises:
            FormatError: If the file is missing or holds something else.
        """
        values = read_json(path, FormatError)
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not a JSON object")
        return cls(path, values)

    @classmethod
    def read_if_there(cls, path: Path) -> Fields:
        """Read a JSON object; one without fields if there is no such file."""
        return cls.read(path) if path.is_file() else cls(path, {})

    def error(self, name: str, allowed: str) -> FormatError:
        """Return the error that says a field's value cannot be used."""
        return FormatError(
            f"{self.path}: {self._place}{name}={self.values.get(name)!r}; allowed: {allowed}"
        )

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a whole number; a missing one without default is an error."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, "a whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number; a missing one without default is an error."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def pick(self, name: str, choices: Mapping[str, T], default: str | None = None) -> T:
        """Return what a field's text stands for."""
        value = self._value(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(name, f"one of {list(choices)}")
        return choices[value]

    def within(self, name: str) -> Fields:
        """Return an object inside this one; one without fields if there is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(self.path, value or {}, f"{self._place}{name}.")

    def require(self, name: str, *allowed: object) -> None:
        """Refuse a field that is there with a value other than those allowed.

        Missing and null are the same to the public libraries, and always pass.
        """
        value = self.values.get(name)
        if value is not None and value not in allowed:
            raise self.error(
                name, " or ".join([*(repr(item) for item in allowed), "no such field"])
            )

    def _value(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise FormatError(f"{self.path}: {self._place}{name} is missing")
            return default
        return value


class Tensors:
    """The tensors of a folder, each taken once, in float32."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self._tensors = dict(tensors)
        self._prefix = ""

    @classmethod
    def read(cls, folder: Path) -> Tensors:
        """Read ``model.safetensors`` or its shards.

        Raises:
            FormatError: If there is neither, a file is damaged, or there are pickles only.
        """
        single, index = folder / WEIGHTS, folder / INDEX
        if single.is_file():
            return cls(single, _modern(load_tensors(single)))
        if index.is_file():
            return cls(index, _modern(_load_shards(index)))
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        hint = f"; {pickles[0]} is a pickle, which is refused" if pickles else ""
        raise FormatError(f"{single} does not exist{hint}")

    def strip(self, prefixes: Iterable[str], anchor: str) -> None:
        """Find the prefix of the encoder's tensors by one that every encoder has.

        Raises:
            FormatError: If none of the prefixes leads to it.
        """
        for prefix in ("", *prefixes):
            if prefix + anchor in self._tensors:
                self._prefix = prefix
                return
        raise FormatError(
            f"{self.path}: tensor {anchor!r} is missing, also with the prefixes {list(prefixes)}"
        )

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor of the given shape and count it as used.

        Raises:
            FormatError: If it is missing or of another shape.
        """
        tensor = self._tensors.pop(self._prefix + name, None)
        if tensor is None:
            raise FormatError(f"{self.path}: tensor {self._prefix + name!r} is missing")
        if tensor.shape != shape:
            raise FormatError(
                f"{self.path}: tensor {self._prefix + name!r} has shape {list(tensor.shape)}, the "
                f"configuration needs {list(shape)}"
            )
        tensor = tensor.to(torch.float32)
        if not tensor.isfinite().all():
            raise FormatError(
                f"{self.path}: tensor {self._prefix + name!r} holds a value that is not finite"
            )
        return tensor

    def look(self, name: str) -> Tensor | None:
        """Return a tensor without counting it as used, in float32; None if it is not there."""
        tensor = self._tensors.get(self._prefix + name)
        return None if tensor is None else tensor.to(torch.float32)

    def rows(self, name: str) -> int:
        """Return the length of a tensor, for a size that no field holds.

        Raises:
            FormatError: If it is missing.
        """
        if self._prefix + name not in self._tensors:
            raise FormatError(f"{self.path}: tensor {self._prefix + name!r} is missing")
        return len(self._tensors[self._prefix + name])

    def finish(self, ignored: Iterable[str]) -> None:
        """Refuse tensors that were not taken.

        Args:
            ignored: Patterns that whole names, without the prefix, may match.

        Raises:
            FormatError: Naming the first that matches none.
        """
        pattern = re.compile("|".join(f"(?:{item})" for item in ignored))
        for name in sorted(self._tensors):
            if not pattern.fullmatch(name.removeprefix(self._prefix)):
                raise FormatError(f"{self.path}: tensor {name!r} is not part of the encoder")


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without ``tokenizer.json``.

    Raises:
        FormatError: Saying what there is instead.
    """
    if (folder / TOKENIZER).is_file():
        return
    others = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
    found = [name for name in others if (folder / name).is_file()]
    hint = f"; {found[0]} alone does not say how text is split" if found else ""
    raise FormatError(f"{folder / TOKENIZER} does not exist{hint}")


def _modern(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in _OLD_NORMS:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        renamed[name] = tensor
    return renamed


def load_tensors(path: Path, hint: str = "") -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Args:
        path: Of the file.
        hint: What an error adds where there is none.

    Raises:
        FormatError: If it is missing or damaged.
    """
    if not path.is_file():
        raise FormatError(f"{path} does not exist{hint}")
    with reading(path, FormatError):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise FormatError(
                f"{path}: not a safetensors file, or a damaged one: {error}"
            ) from None


def _load_shards(index: Path) -> dict[str, Tensor]:
    shards = Fields.read(index).values.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise FormatError(f"{index}: weight_map is missing")
    tensors: dict[str, Tensor] = {}
    for file in sorted({str(value) for value in shards.values()}):
        # The name comes from a stranger's file; it must not lead out of the folder.
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise FormatError(f"{index}: weight_map names {file!r}; allowed: safetensors files")
        tensors |= load_tensors(index.parent / file, ", but the index names it")
    if missing := sorted(shards.keys() - tensors.keys()):
        raise FormatError(f"{index}: tensor {missing[0]!r} is in none of the files")
    return tensors
