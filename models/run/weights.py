"""How many bytes of weights a plan reads: what a model of this subnet alone would hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.core import Plan
from models.nn.ragged import Value


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which parts of some storages are computed with; views alone read nothing."""

    def __init__(self, storages: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = storages
        self.parts: dict[tuple[Any, ...], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        own = {_storage(one) for one in tree_leaves(result) if isinstance(one, Tensor)}
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, Tensor) and (at := _storage(one)) in self._storages - own:
                part = (
                    at,
                    one.storage_offset(),
                    *sorted(zip(one.stride(), one.shape, strict=True)),
                )
                self.parts[part] = one.numel() * one.element_size()
        return result


def weight_bytes(model: nn.Module, plan: Plan, inputs: Mapping[str, Value]) -> int:
    """Return the bytes of the parameters and buffers that a plan computes with.

    Args:
        model: Whose weights the plan's steps have.
        plan: Run once.
        inputs: A batch by name.
    """
    tensors = [*model.parameters(), *model.buffers()]
    reads = _Reads({_storage(tensor) for tensor in tensors})
    values: dict[bytes, Value] = {}
    with torch.no_grad(), reads:
        for step in plan:
            taken = [inputs[x] if isinstance(x, str) else values[x.identity] for x in step.takes]
            values[step.identity] = step.run(*taken)
    return sum(reads.parts.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
