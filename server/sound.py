"""What a model must have answered before it is served."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from models.inputs import Inputs, Item
from models.space import Subnet
from models.tasks import Task
from server.errors import InferenceError, ModelLoadError
from server.served import Served

_TOLERANCE = 1e-3  # of the length of a vector


def examples(inputs: Inputs, names: Collection[str]) -> list[Item]:
    """Return items that a model must be able to answer: a short one and the longest."""
    short = inputs.example(names=names)
    if not inputs.has_length:
        return [short]
    return [short, inputs.longest(names)]


def check_answers(tasks: Mapping[str, Task], outputs: Mapping[str, Tensor]) -> None:
    """Refuse vectors that do not have length 1; that numbers are finite the engine has seen.

    Raises:
        InferenceError: Naming the task.
    """
    for name, output in outputs.items():
        norm = float(output.norm())
        if tasks[name].kind == "embedding" and abs(norm - 1) > _TOLERANCE:
            raise InferenceError(f"task {name!r}: the vector has length {norm:g}, not 1")


@contextmanager
def blaming(served: Served, subnet: Subnet, item: Item) -> Iterator[None]:
    """Name model and subnet where a run fails.

    Raises:
        ModelLoadError: In place of an InferenceError.
    """
    try:
        yield
    except InferenceError as error:
        shapes = {name: list(shape) for name, shape in served.inputs.shapes(item).items()}
        raise ModelLoadError(
            f"{served.name} cannot be served: {error.message}; subnet {dict(subnet)}, inputs of "
            f"shapes {shapes}",
            "model",
        ) from None
