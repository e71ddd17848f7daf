"""The models served: checkpoints with what is needed to search and run them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from models import checkpoint
from models.checkpoint import MANIFEST, CheckpointError, Manifest
from models.core import Elastic, Subnet
from models.inputs import ImageInput
from search.find import Finder, Selection
from search.table import TABLE, Table, TableError
from server.engine.work import Prepared
from server.errors import InvalidRequestError, UnknownModelError, shown

_MAX_PLANS = 4096  # per model; a plan is a few kilobytes of steps, without weights


class CatalogError(ValueError):
    """The models cannot be served. The message names the folder."""


@dataclass(frozen=True)
class Served:
    """One model as it is served.

    Attributes:
        name: What clients ask for.
        manifest: Of its checkpoint.
        model: An `Elastic` that is an nn.Module; Python cannot spell the intersection.
        table: Scores of its subnets.
        finder: Search over the table.
        created_s: When its checkpoint was written, Unix time.
    """

    name: str
    manifest: Manifest
    model: Any
    table: Table
    finder: Finder
    created_s: int

    @property
    def elastic(self) -> Elastic:
        """The model without its weights' interface."""
        elastic: Elastic = self.model
        return elastic

    @property
    def input(self) -> ImageInput:
        """What an image must become."""
        image_input: ImageInput = self.model.input
        return image_input

    @cached_property
    def front(self) -> tuple[Selection, ...]:
        """The Pareto front for all tasks weighing the same, cheapest first."""
        return tuple(self.finder.front())

    def prepare(self, subnet: Subnet, tasks: Collection[str]) -> Prepared:
        """Return the plan of a subnet, from a cache of the last few thousand."""
        return self._prepare(subnet, tuple(tasks))

    @cached_property
    def _prepare(self) -> Callable[[Subnet, tuple[str, ...]], Prepared]:
        def prepare(subnet: Subnet, tasks: tuple[str, ...]) -> Prepared:
            return Prepared(self.name, self.elastic.plan(subnet, self.input.shape, tasks))

        return lru_cache(_MAX_PLANS)(prepare)


class Catalog(Mapping[str, Served]):
    """All models served, by name; never changes."""

    def __init__(self, served: Collection[Served]) -> None:
        """Index the models.

        Raises:
            CatalogError: If two share a name.
        """
        self._served: dict[str, Served] = {}
        for one in served:
            if one.name in self._served:
                raise CatalogError(f"two checkpoints are named {one.name!r}")
            self._served[one.name] = one

    def __getitem__(self, name: str) -> Served:
        return self._served[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    def choose(self, name: str | None) -> Served:
        """Return the model a request names; None is enough where there is only one.

        Raises:
            UnknownModelError: If there is none of that name.
            InvalidRequestError: If no name is given and several models are served.
        """
        if name is None:
            if len(self) > 1:
                raise InvalidRequestError(f"model is required; one of {list(self)}", "model")
            return next(iter(self.values()))
        if name not in self:
            raise UnknownModelError(
                f"model={shown(name)} is not served; one of {list(self)}", "model"
            )
        return self[name]


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in a folder, by name; the folder itself if it is one.

    Raises:
        CatalogError: If there are none.
    """
    if (folder / MANIFEST).is_file():
        return [folder]
    if not folder.is_dir():
        raise CatalogError(f"{folder} is not a folder")
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    if not found:
        raise CatalogError(f"{folder} holds no checkpoint: no {MANIFEST} in it or one level below")
    return found


def load(folder: Path) -> Catalog:
    """Load every checkpoint of a folder.

    Raises:
        CatalogError: If there are none, one cannot be trusted or has no table, or two share a name.
    """
    folders = find_checkpoints(folder)
    names: dict[str, Path] = {}
    served = []
    for path in folders:
        one = _load_one(path)
        if one.name in names:
            raise CatalogError(f"{path} and {names[one.name]} are both named {one.name!r}")
        names[one.name] = path
        served.append(one)
    return Catalog(served)


def _load_one(folder: Path) -> Served:
    try:
        loaded = checkpoint.load(folder)
        if TABLE not in loaded.manifest.files:
            raise CatalogError(f"{folder} has no {TABLE} in its manifest, so nothing can be chosen")
        model = loaded.model
        table = Table.load(folder / TABLE, model.space, tuple(model.tasks))
        finder = Finder(model, model.input.shape, table)
    except (CatalogError, CheckpointError, TableError) as error:
        raise CatalogError(str(error)) from None  # these name the file
    except (SafetensorError, OSError, ValueError) as error:
        raise CatalogError(f"{folder}: {error}") from None
    created_s = int((folder / MANIFEST).stat().st_mtime)
    return Served(model.name, loaded.manifest, model, table, finder, created_s)
