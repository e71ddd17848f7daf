"""Chains: runs of steps on the same rows, each the only user of the one before.

A chain is what back ends are given: what it computes as a key, and small batches to try it on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, partial
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from models.core import Step
from models.nn.ragged import Layout, Ragged, Value, layouts_of

Run: TypeAlias = Callable[..., Any]
Call: TypeAlias = Callable[[Run, Sequence[Value]], Value]
External: TypeAlias = bytes | str
"""Identity of a step's value, or the name of an input."""

_SAMPLE = 16  # tokens or rows that are kept of a batch


def _call(run: Run, args: Sequence[Value]) -> Value:
    return run(*args)  # type: ignore[no-any-return]


class Chain:
    """Functions that run one after the other on the same rows.

    Attributes:
        steps: What it was made of, each after those of the chain that it takes.
        runs: The functions.
        externals: What the chain takes: identities of values, and inputs by name.
        sources: Of each function's arguments: 0.. is the function that gives it, -1, -2 .. the
            first, second .. of ``externals``.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        """Wire steps by number, in the order in which they run."""
        self.steps = tuple(steps)
        self.runs: tuple[Run, ...] = tuple(step.run for step in steps)
        given: dict[External, int] = {}
        found: dict[External, int] = {}
        sources = []
        for number, step in enumerate(steps):
            places = []
            for one in step.takes:
                name = one if isinstance(one, str) else one.identity
                place = given.get(name)
                places.append(found.setdefault(name, -1 - len(found)) if place is None else place)
            sources.append(tuple(places))
            given[step.identity] = number
        self.externals = tuple(found)
        self.sources = tuple(sources)

    @cached_property
    def _ended(self) -> list[list[int]]:
        """Of each function, what nothing takes after it: its memory can serve the next ones."""
        last = {i: number for number, places in enumerate(self.sources) for i in places if i >= 0}
        ended: list[list[int]] = [[] for _ in self.steps]
        for i, number in last.items():
            ended[number].append(i)
        return ended

    @cached_property
    def tolerance(self) -> float:
        """How far back ends may differ; see `models.core.Step`."""
        return sum(step.tolerance for step in self.steps)

    @cached_property
    def links(self) -> tuple[Chain, ...]:
        """Each step as a chain of its own."""
        return tuple(Chain((step,)) for step in self.steps)

    def key(self, inputs: Sequence[Value]) -> Hashable:
        """Return what is equal for chains that compute the same of inputs of the same kind."""
        kinds = tuple(map(_kind, inputs))
        return tuple(map(_identity, self.runs)), self.sources, kinds, shared_layouts(inputs)

    def run(self, inputs: Sequence[Value], call: Call = _call) -> Value:
        """Return what the last function emits.

        Args:
            inputs: Of the chain.
            call: Calls a function with its arguments.
        """
        emitted: dict[int, Value] = {}
        for number, (run, where) in enumerate(zip(self.runs, self.sources, strict=True)):
            args = [emitted[i] if i >= 0 else inputs[-1 - i] for i in where]
            emitted[number] = call(run, args)
            for i in self._ended[number]:
                del emitted[i]
        return emitted[number]

    def run_each(
        self, inputs: Sequence[Value], run: Callable[[Chain, Sequence[Value]], Value]
    ) -> Value:
        """Return the same, step by step.

        Args:
            inputs: Of the chain.
            run: Runs one of ``links`` on its own inputs.
        """
        emitted: dict[int, Value] = {}
        for number, (link, where) in enumerate(zip(self.links, self.sources, strict=True)):
            # A value that a step takes twice is one external of its link.
            own = [emitted[i] if i >= 0 else inputs[-1 - i] for i in dict.fromkeys(where)]
            emitted[number] = run(link, own)
            for i in self._ended[number]:
                del emitted[i]
        return emitted[number]


def shared_layouts(values: Sequence[Value]) -> tuple[int, ...]:
    """Return which packed values have a layout in common: its number, by first use; -1: none."""
    number = {layout: i for i, layout in enumerate(layouts_of(values))}
    return tuple(number[v.layout] if isinstance(v, Ragged) else -1 for v in values)


def function_key(run: Run, args: Sequence[Value]) -> Hashable:
    """Return what is equal for calls of one function with arguments of the same kind."""
    return _identity(run), tuple(map(_kind, args)), shared_layouts(args)


def _identity(run: Run) -> Hashable:
    """Return what tells a function from others, also from those of another model.

    Plans make their partial functions anew; modules and methods compare by the object they are of.
    """
    if not isinstance(run, partial):
        return run
    parts = (run.func, run.args, tuple(run.keywords.items()))
    try:
        hash(parts)
    except TypeError:
        return run
    return parts


def bound_to(model: nn.Module, beside: nn.Module | None = None) -> Callable[[object], bool]:
    """Return a test of whether a key has a function that reads a model's weights.

    It finds what functions are bound to: methods and modules of the model, its tensors, and these
    among the arguments of partial functions and the variables of inner ones.

    Args:
        model: The model.
        beside: Another, whose modules and weights do not count.
    """
    modules, storages = _parts_of(model)
    if beside is not None:
        others, shared = _parts_of(beside)
        modules, storages = modules - others, storages - shared

    def is_bound(part: object) -> bool:
        if isinstance(part, Tensor):
            return part.untyped_storage().data_ptr() in storages
        if isinstance(part, partial):
            return is_bound((part.func, part.args, tuple(part.keywords.values())))
        if isinstance(part, tuple | list):
            return any(map(is_bound, part))
        if isinstance(part, FunctionType):
            return any(is_bound(cell.cell_contents) for cell in part.__closure__ or ())
        owner = getattr(part, "__self__", part)
        return isinstance(owner, nn.Module) and owner in modules

    return is_bound


def _parts_of(model: nn.Module) -> tuple[set[nn.Module], set[int]]:
    tensors = itertools.chain(model.parameters(), model.buffers())
    return set(model.modules()), {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _kind(value: Value) -> Hashable:
    """Return all of a value's shape that does not follow the batch."""
    if isinstance(value, Ragged):
        return "packed", value.values.dtype, value.values.shape[1:]
    return "rows", value.dtype, value.shape[1:]


class Sample:
    """A few tokens or rows of a batch, out of which batches of any lengths are made.

    Attributes:
        layouts: Of each input the number of its layout, as `shared_layouts` has it.
    """

    def __init__(self, inputs: Sequence[Value]) -> None:
        contents = (value.values if isinstance(value, Ragged) else value for value in inputs)
        self._parts = [content[:_SAMPLE].clone() for content in contents]
        self.layouts = shared_layouts(inputs)

    def batch(self, lengths: Sequence[int]) -> list[Value]:
        """Return inputs of ``len(lengths)`` rows: what there is, over and over.

        Args:
            lengths: Of the rows of the first layout. Those of the next begin one row later and are
                one longer, and so on: sizes that are not the same by nature differ.
        """
        layouts: dict[int, Layout] = {}
        inputs: list[Value] = []
        for number, part in zip(self.layouts, self._parts, strict=True):
            own = [lengths[(i + number) % len(lengths)] + number for i in range(len(lengths))]
            count = len(lengths) if number < 0 else sum(own)
            values = part[torch.arange(count, device=part.device) % len(part)]
            if number < 0:
                inputs.append(values)
            else:
                layout = layouts.setdefault(number, Layout(own, part.device))
                inputs.append(Ragged(values, layout))
        return inputs
