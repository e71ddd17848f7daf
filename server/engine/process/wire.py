"""What HTTP processes and the engine's process say to each other, and how it is packed.

Both sides are one server, started from one installation, so messages are pickles. Tensors go as
arrays: pickled by torch, each would take ten times as long.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from models.inputs import Given, Item
from models.nn.ragged import Layout, Value
from search.timing.profile import Corrections
from server.engine.core import Stats

_LENGTH = struct.Struct("!Q")

Message: TypeAlias = tuple[Any, ...]
"""The name of a method of the other side, and its arguments."""

Recipe: TypeAlias = bytes
"""A `PlanRecipe`, pickled: equal plans of one HTTP process mostly are equal bytes."""


class PlanRecipe(NamedTuple):
    """What a plan is made of.

    Attributes:
        model: Number of the model in the engine's process.
        subnet: Axes and values.
        tasks: To answer.
        raw: Whether vectors keep the length that they had before they became unit vectors.
        keep: Identities of inner values that are wanted with the answer.
        known: Identities of values that an earlier run kept.
    """

    model: int
    subnet: tuple[tuple[str, Any], ...]
    tasks: tuple[str, ...]
    raw: bool
    keep: frozenset[bytes]
    known: frozenset[bytes]


class Work(NamedTuple):
    """Items of one request that are put in together.

    Attributes:
        recipe: Of their plan.
        request: Its number.
        since: When they were submitted.
        deadline: As for `server.engine.item.QueueItem`.
        flops: Likewise.
        client: Likewise.
        weight: Likewise.
        priority: Likewise.
        longest_s: Likewise.
        items: Of each its number, its inputs and what an earlier run kept of it.
    """

    recipe: Recipe
    request: int
    since: float
    deadline: float
    flops: float | None
    client: str
    weight: float
    priority: int
    longest_s: float
    items: Sequence[tuple[int, dict[str, tuple[Any, Hashable, int]], Mapping[bytes, Value]]]


class Loaded(NamedTuple):
    """A model that the engine's process has read.

    Attributes:
        number: Names it from now on.
        profile: What it was measured to take, as arguments of `LatencyProfile`.
        corrections: Of that, so far.
    """

    number: int
    profile: Mapping[str, Any]
    corrections: Corrections


class Hello(NamedTuple):
    """What the engine's process says first.

    Attributes:
        pid: Of the process.
        backend_name: What receipts call the back end.
        levels: Fields of the back end's stats that may fall.
        stats: Of this moment.
        pace: Likewise.
    """

    pid: int
    backend_name: str
    levels: frozenset[str]
    stats: Stats
    pace: float


def bare(item: Item) -> dict[str, tuple[Any, Hashable, int]]:
    """Return an item as it is sent."""
    return {name: (one.value, one.digest, one.size) for name, one in item.items()}


def dressed(item: Mapping[str, tuple[Any, Hashable, int]]) -> Item:
    """Undo `bare`."""
    return {name: Given(*given) for name, given in item.items()}


def packed_recipe(recipe: PlanRecipe) -> Recipe:
    """Return a recipe as it is sent."""
    return pickle.dumps(recipe, pickle.HIGHEST_PROTOCOL)


def unpacked_recipe(recipe: Recipe) -> PlanRecipe:
    """Undo `packed_recipe`."""
    found: PlanRecipe = pickle.loads(recipe)
    return found


def frame(message: Message) -> bytes:
    """Return a message as it is sent."""
    file = io.BytesIO()
    file.write(_LENGTH.pack(0))
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCED
    pickler.dump(message)
    with file.getbuffer() as view:
        _LENGTH.pack_into(view, 0, len(view) - _LENGTH.size)
    return file.getvalue()


class Frames:
    """Puts a stream of bytes together to messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[Message]:
        """Take in what has arrived; yield the messages that are whole now."""
        self._data += data
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            with memoryview(self._data) as view:
                message: Message = pickle.loads(view[_LENGTH.size : end])
            del self._data[:end]
            yield message


def _send_tensor(tensor: Tensor) -> tuple[Any, ...]:
    return torch.from_numpy, (tensor.detach().cpu().numpy(),)


def _send_layout(layout: Layout) -> tuple[Any, ...]:
    return Layout, (layout.lengths, layout.device, layout.origin)


def _send_device(_: torch.device) -> tuple[Any, ...]:
    return torch.device, ("cpu",)


_REDUCED: dict[type, Any] = {
    **copyreg.dispatch_table,
    Tensor: _send_tensor,
    Layout: _send_layout,
    torch.device: _send_device,
}
