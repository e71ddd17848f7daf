"""Which vectors may be compared: those of one space, which has an id."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from models.space import Subnet, Value

_ID_BYTES = 8


def space_choices(model: Any, subnet: Subnet) -> Mapping[str, Value]:
    """Return the choices that tell a subnet's space of vectors from others.

    Subnets that agree on these give vectors that may be compared. A family says so with its method
    ``vector_space``; without one only equal subnets agree.

    Args:
        model: An `Elastic`.
        subnet: Of it.
    """
    found: Mapping[str, Value] = getattr(model, "vector_space", dict)(subnet)
    return found


def comparable_choices(model: Any, subnet: Subnet) -> dict[str, Value]:
    """Return what subnets have in common whose vectors have a subnet's space and its size.

    Args:
        model: As for `space_choices`.
        subnet: Likewise.
    """
    outputs = {axis.name: subnet[axis.name] for axis in model.space.axes if axis.kind == "output"}
    return {**outputs, **space_choices(model, subnet)}


def space_id(model: Any, origin: str, subnet: Subnet, adapter: str = "") -> str | None:
    """Return the id of the space that a subnet's vectors are of; None if it gives no vectors.

    Args:
        model: An `Elastic`.
        origin: What is equal for checkpoints whose largest subnets give equal vectors.
        subnet: Of it; axes of single tasks may be missing.
        adapter: That the vectors are of; empty for none.
    """
    if all(task.kind != "embedding" for task in model.tasks.values()):
        return None
    choices = sorted(space_choices(model, subnet).items())
    said = (origin, choices, adapter) if adapter else (origin, choices)
    return blake2b(repr(said).encode(), digest_size=_ID_BYTES).hexdigest()
