"""How long a client's vectors shall be: the output axis by the name every protocol gives it."""

from __future__ import annotations

from collections.abc import Mapping

from models.space import Value
from server.errors import InvalidRequestError
from server.served import Served


def allowed_dimensions(served: Served) -> list[int] | None:
    """Return the lengths that vectors may be cut to; None where they are not cut."""
    axis = served.output_axis
    return None if axis is None else [int(value) for value in axis.values]


def fixed_dimensions(served: Served, dimensions: int | None) -> Mapping[str, Value]:
    """Return the values that a request fixes by asking for a length; None asks for the whole.

    Raises:
        InvalidRequestError: If the model has no such axis, or not this value on it.
    """
    if dimensions is None:
        return served.whole_outputs
    axis, allowed = served.output_axis, allowed_dimensions(served)
    if axis is None or allowed is None:
        raise InvalidRequestError(
            "This model does not support specifying dimensions.", "dimensions"
        )
    if dimensions not in allowed:
        raise InvalidRequestError(
            f"dimensions={dimensions} is not allowed; one of {allowed}", "dimensions"
        )
    return {axis.name: dimensions}
