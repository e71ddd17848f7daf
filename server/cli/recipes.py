"""Options of training commands: those of a recipe, whose texts and defaults they have."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.failing import failing

_LEAST: Mapping[str, float | None] = {
    "steps": 1,
    "epochs": 1,
    "batch_size": 1,
    "queries": 2,
    "rank": 1,
    "cuts": 1,
    "max_tokens": 3,
    "reach": None,
    "exit_power": None,
    "seed": None,
}
"""Of fields that may not be 0, or may be below it."""
_DOCUMENTED = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def tell_tested(tested: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Print scores on test data, a line for each of what was trained, and how to serve it.

    Args:
        tested: Measured scores by name, of each.
        out: Folder of the checkpoint.
    """
    for what, own in tested.items():
        told = ", ".join(f"{key} {one.value:.4f} ± {one.stderr:.4f}" for key, one in own.items())
        typer.echo(f"{what}, test: {told}")
    typer.echo(f"done; serve it with: rheostat serve --models {out}")


def takes_recipe(recipe: Any, **least: float) -> Callable[[Any], Callable[..., None]]:
    """Give a command an option for each number and switch of a recipe; its ``recipe`` is made.

    An option's text is the field's in the recipe's documentation. Other fields have their defaults;
    the command may change them.

    Args:
        recipe: A dataclass whose fields have defaults.
        least: What some numbers have to be at least, where that is more than usual.
    """
    texts = {name: " ".join(text.split()) for name, text in _documented(recipe).items()}
    options = [
        _option(field, texts[field.name], {**_LEAST, **least})
        for field in fields(recipe)
        if isinstance(field.default, int | float)
    ]

    def wrap(command: Any) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def run(**given: Any) -> None:
            with failing():
                made = recipe(**{one.name: given.pop(one.name) for one in options})
            command(**given, recipe=made)

        kept = [one for one in own if one.name != "recipe"]
        run.__signature__ = Signature([*kept, *options])  # type: ignore[attr-defined]
        return run

    return wrap


def _documented(recipe: Any) -> dict[str, str]:
    _, _, attributes = (inspect.getdoc(recipe) or "").partition("Attributes:\n")
    return dict(_DOCUMENTED.findall(attributes))


def _option(field: Field[Any], text: str, least: Mapping[str, float | None]) -> Parameter:
    assert field.default is not MISSING
    kind: Any = type(field.default)
    bound = None if kind is bool else least.get(field.name, 0)
    annotation = Annotated[kind, typer.Option(min=bound, help=text)]
    return Parameter(
        field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation
    )
