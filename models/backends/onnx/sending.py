"""Functions and graphs as bytes for another process, their weights apart.

Tracing a function needs the values of the weights that it reads, and of the others no more than
their shapes: a method of a model carries the whole model. What comes back names weights by where
they lie, so the graph's weights are views of the model's parameters again.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode

from models.nn.ragged import Value
from models.run.chain import Run

Where: TypeAlias = tuple[int, torch.dtype, int, tuple[int, ...], tuple[int, ...]]


class Storages:
    """The memory of tensors, by number.

    Attributes:
        all: In the order of their numbers.
    """

    def __init__(self, known: Sequence[UntypedStorage] = ()) -> None:
        self.all = list(known)
        self._numbers = {_address(storage): n for n, storage in enumerate(known)}

    def find(self, storage: UntypedStorage) -> int | None:
        """Return a storage's number, None if it has none."""
        return self._numbers.get(_address(storage))

    def add(self, storage: UntypedStorage) -> int:
        """Return a storage's number, a new one if it has none."""
        number = self._numbers.setdefault(_address(storage), len(self.all))
        if number == len(self.all):
            self.all.append(storage)
        return number

    def where(self, tensor: Tensor, adds: bool = False) -> Where | None:
        """Return where a tensor lies; None if that has no number and gets none.

        Args:
            tensor: On any device.
            adds: Whether its storage gets a number if it has none.
        """
        storage = tensor.untyped_storage()
        number = self.add(storage) if adds else self.find(storage)
        if number is None:
            return None
        offset = int(tensor.storage_offset())
        return number, tensor.dtype, offset, tuple(tensor.shape), tensor.stride()

    def view(self, where: Where) -> Tensor:
        """Return the tensor that lies at a place; ValueError if that is not in its storage."""
        number, dtype, offset, shape, strides = where
        storage = self.all[number]
        end = offset + 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if min([offset, *shape, *strides]) < 0 or end * dtype.itemsize > storage.nbytes():
            raise ValueError(f"shape {shape} at {offset} is not in {storage.nbytes()} bytes")
        return torch.empty(0, dtype=dtype, device=storage.device).set_(
            storage, offset, shape, strides
        )


def _address(storage: UntypedStorage) -> tuple[str, int]:
    return str(storage.device), storage.data_ptr()


class Packed(NamedTuple):
    """A function and its arguments, ready to be sent.

    Attributes:
        message: Both pickled, and of each storage its bytes and whether it is needed.
        storages: Of their tensors.
        args: Numbers of the arguments' storages.
        weights: Numbers of the other storages that the function reads.
    """

    message: bytes
    storages: Storages
    args: tuple[int, ...]
    weights: tuple[int, ...]

    def contents(self, numbers: Sequence[int]) -> Iterator[memoryview]:
        """Yield what storages hold."""
        for number in numbers:
            yield _flat(self.storages.all[number]).cpu().numpy().data


def pack_function(run: Run, args: Sequence[Value]) -> Packed:
    """Pickle a function and its arguments, weights apart.

    Args:
        run: Anything that pickle can name or take apart.
        args: Example arguments.

    Raises:
        Exception: Of any type, if the function cannot be pickled or called.
    """
    reads = _Reads()
    with reads, torch.no_grad():
        run(*args)
    storages = Storages()
    parts = [dumps(tuple(args), storages, adds=True)]
    own = tuple(range(len(storages.all)))
    parts.append(dumps(run, storages, adds=True))
    read = {number for s in reads.storages if (number := storages.find(s)) is not None}
    weights = tuple(sorted(read.difference(own)))
    sizes = [(storage.nbytes(), n in own or n in weights) for n, storage in enumerate(storages.all)]
    return Packed(pickle.dumps((parts, sizes)), storages, own, weights)


def send_function(connection: Connection[Any, Any], packed: Packed) -> None:
    """Send a function and its arguments to the process that calls `receive_function`."""
    connection.send_bytes(packed.message)
    for content in packed.contents(packed.args + packed.weights):
        connection.send_bytes(content)


def receive_function(
    connection: Connection[Any, Any],
) -> tuple[Callable[[], tuple[Run, Sequence[Value]]], Storages]:
    """Receive what `send_function` sends; weights that are never read are zeros.

    Returns:
        What makes the function and its arguments, on the CPU, and what `dumps` needs to answer.
    """
    (args, run), sizes = pickle.loads(connection.recv_bytes())
    memory = [torch.zeros(num_bytes, dtype=torch.uint8) for num_bytes, _ in sizes]
    for content, (_, is_needed) in zip(memory, sizes, strict=True):
        if is_needed:
            connection.recv_bytes_into(content.numpy())
    storages = Storages([content.untyped_storage() for content in memory])
    return lambda: (loads(run, storages), loads(args, storages)), storages


def dumps(value: object, storages: Storages, adds: bool = False) -> bytes:
    """Pickle a value, its tensors as places in storages.

    Args:
        value: To pickle.
        storages: Of tensors that the other side has.
        adds: Whether other tensors are added to them; if not, they are pickled.
    """
    file = io.BytesIO()
    _Pickler(file, storages, adds).dump(value)
    return file.getvalue()


def loads(message: bytes, storages: Storages) -> Any:
    """Undo `dumps`, given storages of the same numbers."""
    return _Unpickler(io.BytesIO(message), storages).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, storages: Storages, adds: bool) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._storages, self._adds = storages, adds

    def persistent_id(self, value: Any) -> Where | None:
        """Return where a tensor lies, None for what is pickled."""
        if not isinstance(value, Tensor):
            return None
        return self._storages.where(value, self._adds)

    def reducer_override(self, value: Any) -> Any:
        """Pickle devices as the CPU, and objects without what they have computed for later.

        They compute it again if asked for. Some of it cannot be pickled, and without it an object
        is the same bytes however long it has been in use.
        """
        if isinstance(value, torch.device):
            return torch.device, ("cpu",)
        computed = _computed(type(value))  # type: ignore[arg-type]  # classes are hashable
        if not computed:
            return NotImplemented
        reduced = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        assert isinstance(reduced, tuple)
        make, args, state, *rest = reduced
        if isinstance(state, dict):
            state = {name: part for name, part in state.items() if name not in computed}
        return make, args, state, *rest


@lru_cache(1024)
def _computed(kind: type) -> frozenset[str]:
    """Return the names of a class's properties that are computed once."""
    return frozenset(
        name
        for base in kind.__mro__
        for name, part in vars(base).items()
        if isinstance(part, cached_property)
    )


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, storages: Storages) -> None:
        super().__init__(file)
        self._storages = storages

    def persistent_load(self, where: Where) -> Tensor:
        """Return the tensor that lies at a place; a view."""
        return self._storages.view(where)


class _Reads(TorchFunctionMode):
    """Notes the storages of all tensors that torch is called with.

    Attributes:
        storages: Noted so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: list[UntypedStorage] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the arguments and call the function."""
        kwargs = kwargs or {}
        self.storages += (tensor.untyped_storage() for tensor in _tensors((args, kwargs)))
        return func(*args, **kwargs)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _flat(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
