"""Exported graphs on disk, so that no start traces what an earlier one has traced.

A graph follows from the function that is traced, the kinds of its arguments and the weights that
it reads, from the code that these name, and from who traces: its file is named by a digest of all
that. The processor and the runtime have no part in it: sessions are made, checked and timed anew.

A file has no code: the graph, constants, and where in the function's memory its weights lie.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from onnx import GraphProto
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from models.backends.onnx.export import OPSET, Exported
from models.backends.onnx.layouts import LayoutInput, maker
from models.backends.onnx.sending import Packed, Storages, pack_function
from models.files import reading, replacing
from models.nn.ragged import Value
from models.run.chain import Run

log = logging.getLogger(__name__)

_FORMAT = 1
_GRAPH = "graph"
_SUFFIX = ".graph.safetensors"
_MAX_FILES = 4096
_MAX_BYTES = 2**30
_TRACED_BY = ("torch", "onnx", "onnxscript")


class GraphFileError(ValueError):
    """A file holds no graph of the function. The message names it."""


class KeptGraphs:
    """A folder of graphs; nothing where there is none.

    Functions that differ in the values of their weights alone, as the layers of a model do, share a
    graph if it holds no value of a weight. What is used least recently goes when there are more
    files, or bytes, than a bound.
    """

    def __init__(
        self, folder: Path | None, max_files: int = _MAX_FILES, max_bytes: int = _MAX_BYTES
    ) -> None:
        """Read nothing yet.

        Args:
            folder: Of the files; made when there is one to write. None to keep nothing.
            max_files: In the folder.
            max_bytes: Of those together.
        """
        self._folder = folder
        self._max_files, self._max_bytes = max_files, max_bytes

    def find(self, run: Run, args: Sequence[Value]) -> Exported | None:
        """Return a function's graph, its weights views of the function's; None if there is none.

        Args:
            run: As for `models.backends.onnx.export.export`.
            args: Likewise.
        """
        if self._folder is None or (packed := _packed(run, args)) is None:
            return None
        for path in self._paths(self._folder, run, packed):
            try:
                if (found := _read(path, packed.storages)) is not None:
                    return found
            except GraphFileError as error:
                log.warning("%s; it is exported again", error)
        return None

    def put(self, run: Run, args: Sequence[Value], graph: Exported, is_own: bool = False) -> None:
        """Keep a function's graph; where it cannot be written, say so and go on.

        Args:
            run: As for `find`.
            args: Likewise.
            graph: Exported.
            is_own: Whether it is for these values of weights alone, whatever it holds.
        """
        if self._folder is None or (packed := _packed(run, args)) is None:
            return
        own, shared = self._paths(self._folder, run, packed)
        places = {name: _place(packed.storages, weight) for name, weight in graph.weights.items()}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(own if is_own or None in places.values() else shared, graph, places)
            self._make_room(self._folder)
        except (OSError, SafetensorError) as error:
            log.warning("a graph is not kept: %s", error)

    @staticmethod
    def _paths(folder: Path, run: Run, packed: Packed) -> tuple[Path, Path]:
        """Return the files of a function with the values of its weights, and with any."""
        made_by = [version(name) for name in _TRACED_BY]
        modules = sorted(_modules_of(run))
        digest = blake2b(packed.message, digest_size=16)
        digest.update(repr((_FORMAT, OPSET, made_by, modules, _sources(tuple(modules)))).encode())
        shared = folder / f"{digest.hexdigest()}{_SUFFIX}"
        # Not of the arguments: a graph is of any rows, and examples are from traffic.
        for content in packed.contents(packed.weights):
            digest.update(content)
        return folder / f"{digest.hexdigest()}{_SUFFIX}", shared

    def _make_room(self, folder: Path) -> None:
        """Remove the files that were used least recently until the others are few enough."""
        found = sorted(_used(folder), reverse=True)
        total = 0
        for number, (_, num_bytes, path) in enumerate(found, 1):
            total += num_bytes
            if number > self._max_files or total > self._max_bytes:
                path.unlink(missing_ok=True)


def _packed(run: Run, args: Sequence[Value]) -> Packed | None:
    try:
        return pack_function(run, args)
    except Exception:  # noqa: BLE001 - pickle raises whatever it likes; the exporter will say so
        return None


def _used(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each file was used last, its bytes and its path."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process has removed it
            continue
        yield stat.st_mtime, stat.st_size, path


def _modules_of(part: Any) -> set[str]:
    """Return the names of the Python modules that define a function and what it is bound to."""
    if isinstance(part, partial):
        return set().union(*map(_modules_of, (part.func, *part.args, *part.keywords.values())))
    owner = getattr(part, "__self__", part)
    if isinstance(owner, nn.Module):
        return {base.__module__ for one in owner.modules() for base in type(one).__mro__}
    return {name} if isinstance(name := getattr(part, "__module__", None), str) else set()


@cache
def _sources(modules: tuple[str, ...]) -> str:
    """Return a digest of the source of this package, and of modules that are not of it."""
    (package,) = models.__path__
    files = sorted(Path(package).rglob("*.py"))
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and name.partition(".")[0] not in ("models", "torch"):
            files.append(Path(file))
    digest = blake2b(digest_size=16)
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _place(storages: Storages, weight: Tensor) -> tuple[object, ...] | None:
    """Return where a weight lies, for JSON; None if it is a value of its own."""
    where = storages.where(weight)
    return where and (where[0], str(where[1]).removeprefix("torch."), *where[2:])


def _placed(storages: Storages, number: int, dtype: str, *place: Any) -> Tensor:
    """Undo `_place`; ValueError if the place is not in its storage."""
    return storages.view((number, getattr(torch, dtype), *place))


def _write(path: Path, graph: Exported, places: Mapping[str, object]) -> None:
    tensors = {_GRAPH: _bytes_of(graph.proto)}
    for name, weight in graph.weights.items():
        if places[name] is None:
            tensors[f"weight.{name}"] = weight.cpu().clone().contiguous()
    layout = [[one.number, one.name] for one in graph.layout]
    about = {"weights": places, "layout": layout, "packed": graph.packed}
    with replacing(path) as part:
        save_file(tensors, part, {"about": json.dumps(about)})


def _read(path: Path, storages: Storages) -> Exported | None:
    """Return a graph; None if there is none.

    Raises:
        GraphFileError: If the file holds something else.
    """
    with reading(path, GraphFileError):
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            weights = {
                name: file.get_tensor(f"weight.{name}")
                if place is None
                else _placed(storages, *place)
                for name, place in about["weights"].items()
            }
            proto = GraphProto.FromString(file.get_tensor(_GRAPH).numpy().tobytes())
        layout = tuple(LayoutInput(number, name, maker(name)) for number, name in about["layout"])
        with suppress(OSError):  # others may own the folder
            os.utime(path)
        return Exported(proto, weights, layout, about["packed"])


def _bytes_of(proto: GraphProto) -> Tensor:
    return torch.frombuffer(bytearray(proto.SerializeToString()), dtype=torch.uint8)
