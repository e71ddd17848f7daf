"""The sides of a search, as any protocol names them, and the prompt that goes with each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from models.inputs.text import text_input
from search.quality.sides import Side
from server.served import Served

_SIDES = {"search_query": "query", "search_document": "document", "passage": "document"}


def _side_of(value: Any) -> Any:
    """Read what Cohere's and others' clients call the sides of a search."""
    return _SIDES.get(value, value) if isinstance(value, str) else value


SideOfSearch = Annotated[
    Literal["query", "document"] | None,
    BeforeValidator(
        _side_of,
        json_schema_input_type=Literal[
            "query", "document", "search_query", "search_document", "passage"
        ]
        | None,
    ),
    Field(
        validation_alias=AliasChoices("side", "input_type"),
        description="Of a search that the texts are. The subnet is chosen by what it is worth "
        "where the other side is of the whole model, and the model's prompt for the side is used "
        "where `prompt` names none. Cohere's name: `input_type`.",
    ),
]

_PROMPTS: Mapping[Side | None, tuple[str, ...]] = {
    "query": ("query", "search_query"),
    "document": ("document", "passage", "search_document"),
}


def side_of_prompt(prompt: str | None) -> Side | None:
    """Return the side of a search that the name of a prompt means; None for neither."""
    return next((side for side, names in _PROMPTS.items() if prompt in names), None)


def side_prompt(served: Served, side: Side | None, prompt: str | None) -> str | None:
    """Return the prompt that is asked for, else the model's own for a side; None for its default.

    Args:
        served: The model.
        side: Of a search that the texts are.
        prompt: Named in the request.
    """
    if prompt is not None or side is None:
        return prompt
    prompts = text_input(served.inputs).config.prompts
    return next((name for name in _PROMPTS[side] if name in prompts), None)
