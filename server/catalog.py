"""The models served: checkpoints with what is needed to search and run them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path

from models import checkpoint
from models.checkpoint import MANIFEST, CheckpointError
from models.files import reading
from models.inputs.text import MAX_TEXT_CHARS, limit_texts
from models.tasks import Kind
from search.quality.table import TABLE, Table, TableError
from search.timing.profile import LatencyProfile
from server.errors import InvalidRequestError, UnknownModelError, shown
from server.served import Served

log = logging.getLogger(__name__)

_TAKEN = re.compile(r".*/(load|reload|unload|config|ready|infer|versions/[^/]*)", re.DOTALL)


class CatalogError(ValueError):
    """The models cannot be served. The message names the folder."""


class Catalog(Mapping[str, Served]):
    """All models served, by name. Models come and go whole; whoever has one keeps it."""

    def __init__(
        self,
        served: Collection[Served],
        defaults: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Index the models.

        Args:
            served: The models.
            defaults: Names for requests that name none, as for `meant`.
            aliases: Further names, each with the model that it means.

        Raises:
            CatalogError: If two share a name, or a default is not served; as `check_aliases`.
        """
        self._aliases = dict(aliases or {})
        self._served: dict[str, Served] = {}
        for one in served:
            if other := self._served.get(one.name):
                raise CatalogError(f"{other.folder} and {one.folder} are both named {one.name!r}")
            self._served[one.name] = one
        check_aliases(self._aliases, self)
        self._defaults = tuple(map(self.named, defaults))
        for name in self._defaults:
            if name not in self._served:
                raise CatalogError(f"default_models: {name!r} is not served; {list(self)} are")

    def __getitem__(self, name: str) -> Served:
        return self._served[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._served)

    def __len__(self) -> int:
        return len(self._served)

    @property
    def names(self) -> list[tuple[str, Served]]:
        """Every name that a request may use, with its model; first those of the models."""
        found = [(alias, name) for alias, name in self._aliases.items() if name in self]
        return [*self.items(), *((alias, self[name]) for alias, name in found)]

    def named(self, name: str) -> str:
        """Return the model's own name for any of its names; one that is none stays as it is."""
        return self._aliases.get(name, name)

    def put(self, served: Served) -> None:
        """Serve a model from now on, instead of the one of its name if there is one."""
        self._served = {**self._served, served.name: served}

    def drop(self, name: str) -> None:
        """Serve a model no longer; KeyError if it is not served."""
        _ = self._served[name]
        self._served = {key: one for key, one in self._served.items() if key != name}

    def within(self, names: Collection[str] | None) -> Catalog:
        """Return the catalogue as it is for somebody for whom there are only these models.

        Args:
            names: Of models, served or not; None for all.
        """
        if names is None:
            return self
        seen = copy(self)
        seen._served = {name: one for name, one in self.items() if name in names}
        return seen

    def profiled(self, measure: Callable[[Served], LatencyProfile]) -> Catalog:
        """Return the models with their profiles."""
        profiled = [served.timed(measure(served)) for served in self.values()]
        return Catalog(profiled, self._defaults, self._aliases)

    def choose(
        self,
        name: str | None,
        takes: str | None = None,
        names: Collection[str] | None = None,
        gives: tuple[Kind, ...] = (),
    ) -> Served:
        """Return the model a request names, or the one it means if it names none.

        Args:
            name: Of the model.
            takes: The kind of input that the request has; None for any.
            names: Of the inputs that the request has; None for any.
            gives: Kinds of answers that the request can use; none for any.

        Raises:
            UnknownModelError: If there is none of that name, or none at all.
            InvalidRequestError: If no name is given and several models could be meant, or none; or
                if the model has no such answer.
        """
        if name is None:
            if not self:  # as somebody sees it whose models have gone
                raise UnknownModelError("none of this client's models is served now", "model")
            taking = [key for key, one in self.items() if one.inputs.signature.fits(takes, names)]
            fit = [key for key in taking if self[key].gives(gives)] or taking
            own = meant(fit or list(self), self._defaults)
        elif (own := self.named(name)) not in self:
            names = [name for name, _ in self.names]
            raise UnknownModelError(f"model={shown(name)} is not served; one of {names}", "model")
        found = self[own]
        if found.inputs.signature.fits(takes, names) and not found.gives(gives):
            kinds = ", ".join(dict.fromkeys(task.kind for task in found.elastic.tasks.values()))
            raise InvalidRequestError(
                f"model={shown(own)} answers with {kinds}; allowed here: {', '.join(gives)}",
                "model",
            )
        return found


def check_aliases(aliases: Mapping[str, str], names: Collection[str]) -> None:
    """Refuse further names that could not be told from others.

    Args:
        aliases: Each with the model that it means.
        names: Of the models that are served.

    Raises:
        CatalogError: If one is a model's, or means none, or ends as some paths behind a name do.
    """
    for alias, name in aliases.items():
        if alias in names:
            raise CatalogError(f"aliases: {alias!r} is the name of a model that is served")
        if name not in names:
            raise CatalogError(f"aliases: {alias}={name}: not served; {list(names)} are")
        if _TAKEN.fullmatch(alias):
            raise CatalogError(f"aliases: {alias!r} is no name: its end has a meaning in paths")


def meant(fit: Sequence[str], defaults: Sequence[str]) -> str:
    """Return the model that a request means which names none.

    Args:
        fit: Models that take its inputs.
        defaults: In order of preference.

    Raises:
        InvalidRequestError: If several fit and no default is among them.
    """
    found = fit if len(fit) == 1 else [name for name in defaults if name in fit]
    if not found:
        raise InvalidRequestError(f"model is required; one of {list(fit)}", "model")
    return found[0]


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


def load(
    folder: Path,
    defaults: Sequence[str] = (),
    max_text_chars: int = MAX_TEXT_CHARS,
    aliases: Mapping[str, str] | None = None,
    with_weights: bool = True,
) -> Catalog:
    """Load every checkpoint of a folder; defaults and aliases as for `Catalog`.

    Raises:
        CatalogError: As `Catalog`, or if there are none, or one cannot be trusted or has no table.
    """
    found = find_checkpoints(folder)
    served = []
    for number, path in enumerate(found, 1):
        log.info("reading model %d of %d: %s", number, len(found), path)
        served.append(load_one(path, max_text_chars, with_weights))
    return Catalog(served, defaults, aliases)


def load_one(
    folder: Path, max_text_chars: int = MAX_TEXT_CHARS, with_weights: bool = True
) -> Served:
    """Load one checkpoint.

    Args:
        folder: Of the checkpoint.
        max_text_chars: As for `TextInput`.
        with_weights: As for `models.checkpoint.load`.

    Raises:
        CatalogError: If it cannot be trusted or has no table.
    """
    with reading(folder, CatalogError):
        try:
            loaded = checkpoint.load(folder, with_weights)
            model = loaded.model
            if TABLE not in loaded.manifest.files:
                raise CatalogError(
                    f"{folder} has no {TABLE} in its manifest, so nothing can be chosen"
                )
            table = Table.load(folder / TABLE, model.space, model.tasks)
        except (CheckpointError, TableError) as error:
            raise CatalogError(str(error)) from None  # these name the file
        if _TAKEN.fullmatch(model.name):
            raise CatalogError(
                f"{folder}: name={model.name!r} is no name: its end has a meaning in paths"
            )
        limit_texts(model.inputs, max_text_chars)
        created_s = int((folder / MANIFEST).stat().st_mtime)
        served = Served(folder, model.name, loaded.manifest, model, table, created_s)
        _ = served.finders  # built now, so that a table that does not factorise is refused here
    return served
