"""What families have in common that wrap a model of another family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from models import families
from models.core import Shapes
from models.inputs import Inputs
from models.space import Subnet, Value
from models.tasks import Task
from models.variants import load_axes


class Wrapped(nn.Module):
    """Part of an `Elastic` model: what it answers as the model that it wraps does."""

    base: Any  # an `Elastic` that is an nn.Module; Python cannot spell the intersection

    def __init__(self, name: str, config: Any) -> None:
        """Build the wrapped model.

        Args:
            name: Of both models.
            config: Names the wrapped model's ``family``, and has its configuration as ``model``.

        Raises:
            ValueError: If the family or its configuration is none.
        """
        super().__init__()
        self.name = name
        self.config = config
        family = families.get(config.family)
        own: Any = TypeAdapter(family.config).validate_python(config.model)
        self.base = family.build(name, own)

    def check_one_set_of_weights(self) -> None:
        """Refuse a wrapped model with load axes; ValueError that names one."""
        if axes := load_axes(self.base.space):
            raise ValueError(f"model: axis {axes[0].name!r} is of weights")

    @property
    def assets(self) -> Sequence[str]:
        """Files that the wrapped model reads besides its weights."""
        found: Sequence[str] = getattr(self.base, "assets", ())
        return found

    def attach(self, folder: Path) -> None:
        """Let the wrapped model read its files; ValueError if they do not fit."""
        self.base.attach(folder)

    @property
    def inputs(self) -> Inputs:
        """Those of the wrapped model."""
        found: Inputs = self.base.inputs
        return found

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Those of the wrapped model."""
        found: Mapping[str, Task] = self.base.tasks
        return found

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the first layers see; ValueError for shapes of other inputs."""
        found: int = self.base.tokens(shapes)
        return found

    def of_base(self, subnet: Mapping[str, Value]) -> Subnet:
        """Return a subnet's choices on the wrapped model's axes."""
        return Subnet((axis, value) for axis, value in subnet.items() if axis in self._base_axes)

    def base_vector_space(self, subnet: Mapping[str, Value]) -> Mapping[str, Value]:
        """Return what tells the wrapped model's vectors apart; see `models.vectors`."""
        own = self.of_base(subnet)
        found: Mapping[str, Value] = getattr(self.base, "vector_space", dict)(own)
        return found

    @cached_property
    def _base_axes(self) -> frozenset[str]:
        return frozenset(axis.name for axis in self.base.space.axes)
