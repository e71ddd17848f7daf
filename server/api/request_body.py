"""What every request body has in common: null in an optional field means that it is not given."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import AliasChoices, BaseModel, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_ABOUT_FIELDS = ("default", "description", "title")


class RequestBody(BaseModel):
    """A JSON object of a request, or a part of one.

    Clients that spell out all their fields send null for what their caller left out.
    """

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        optional = _optional(cls)
        return {
            name: value
            for name, value in given.items()
            if value is not None or name not in optional
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Let the schema of a request say that null is allowed; an answer's stays as it is."""
        schema = handler(core_schema)
        if handler.mode == "validation":
            found = handler.resolve_ref_schema(schema)
            required = found.get("required", ())
            for name, field in found.get("properties", {}).items():
                if name not in required:
                    found["properties"][name] = _or_null(field)
        return schema


@cache
def _optional(body: type[BaseModel]) -> frozenset[str]:
    """Return what the fields are called that may be left out, by all their names."""
    names: set[str] = set()
    for name, field in body.model_fields.items():
        if not field.is_required():
            aliases = field.validation_alias
            choices = aliases.choices if isinstance(aliases, AliasChoices) else [name]
            names.update(choice for choice in choices if isinstance(choice, str))
    return frozenset(names)


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    options = schema.get("anyOf", ())
    if {"type": "null"} in options or schema.get("type") == "null":
        return schema
    about = {key: schema[key] for key in _ABOUT_FIELDS if key in schema}
    kind = {key: value for key, value in schema.items() if key not in about}
    return {"anyOf": [*(options or [kind]), {"type": "null"}], **about}
