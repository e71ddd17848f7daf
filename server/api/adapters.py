"""The adapter of a model, as any protocol names it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_ADAPTER = 200  # characters of a name

Adapter = Annotated[
    str | None,
    Field(
        max_length=MAX_ADAPTER,
        description="Name of one of the model's adapters; empty: none. Default: the client's, "
        "else none.",
    ),
]
