"""Elastic model families, one file each.

A family is found by its file's name: `models/families/<name>.py` with a `FAMILY` of type `Family`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from torch import nn


class Family(NamedTuple):
    """How a checkpoint's manifest becomes a model of the family.

    Attributes:
        config: Dataclass of everything that fixes the architecture.
        build: Function of a model name and such a config; the result is an `Elastic` with
            untrained weights and keeps the config as its attribute ``config``. One that needs
            files besides its weights names them in ``assets`` and reads them in
            ``attach(folder)``.
    """

    config: type
    build: Callable[[str, Any], nn.Module]


def as_json(config: Any) -> dict[str, Any]:
    """Return a configuration as manifests have it."""
    found: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return found


def names() -> list[str]:
    """Return the names of all families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Family:
    """Return a family by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in names():
        raise ValueError(f"unknown family {name!r}; one of {names()}")
    family = importlib.import_module(f"{__name__}.{name}").FAMILY
    assert isinstance(family, Family)
    return family
