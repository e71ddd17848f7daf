"""Models that come, change and go while the server runs.

A model is read, checked, timed and run before any request sees it, and the switch is one
assignment: a request has the old model or the new one, whole. What fails on the way leaves
everything as it was. Requests under way finish on the model that they began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoint import CheckpointError, read_manifest
from models.inputs.text import MAX_TEXT_CHARS
from server import garbage
from server.catalog import CatalogError, find_checkpoints, load_one
from server.engine.engine import Engine
from server.errors import (
    ConflictError,
    ModelLoadError,
    RheostatError,
    UnknownModelError,
    shown,
)
from server.served import Served
from server.service import Service

log = logging.getLogger(__name__)

_OTHERS_S = 90.0  # for the other HTTP processes to follow
_PATIENCE_S = 60.0  # for requests on a model that has gone


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint in the models' folder.

    Attributes:
        name: What clients ask for, or would.
        family: Of the checkpoint.
        version: Of the checkpoint on disk.
        folder: Where it is.
        served_version: Of the model served by that name; None if there is none.
    """

    name: str
    family: str
    version: str
    folder: Path
    served_version: str | None


class Lifecycle:
    """Loads, reloads and unloads; one at a time, others are refused meanwhile."""

    def __init__(
        self,
        service: Service,
        engine: Engine,
        folder: Path,
        max_text_chars: int = MAX_TEXT_CHARS,
    ) -> None:
        """Start from what the service serves.

        Args:
            service: Whose catalogue changes.
            engine: On whose thread models are prepared, timed and forgotten.
            folder: Of checkpoint folders: no other model can be loaded.
            max_text_chars: As for `TextInput`.
        """
        self._max_text_chars = max_text_chars
        self._service = service
        self._engine = engine
        self._folder = folder
        self._is_busy = False
        self._changes = {"load": self._load, "reload": self._reload, "unload": self._unload}
        engine.core.answering["change"] = self._change_too

    def stored(self) -> list[Stored]:
        """Return the checkpoints that can be loaded; those that cannot be read are left out."""
        found = []
        for folder in self._folders():
            try:
                manifest = read_manifest(folder)
            except CheckpointError as error:
                log.warning("not listed: %s", error)
                continue
            served = self._service.catalog.get(manifest.name)
            found.append(
                Stored(
                    name=manifest.name,
                    family=manifest.family,
                    version=manifest.version,
                    folder=folder,
                    served_version=served.manifest.version if served else None,
                )
            )
        return found

    async def load(self, name: str) -> Served:
        """Serve a model of the folder that is not served yet.

        Raises:
            ConflictError: If it is served, or another change is under way.
            UnknownModelError: If the folder has none of that name.
            ModelLoadError: If its checkpoint cannot be served.
        """
        served: Served = await self._change("load", name)
        return served

    async def _load(self, name: str) -> Served:
        async with self._alone():
            if name != (own := self._service.catalog.named(name)):
                raise ConflictError(f"model={shown(name)} means {own!r}; load that", "model")
            if name in self._service.catalog:
                raise ConflictError(f"model={shown(name)} is served already; reload it", "model")
            stored = await asyncio.to_thread(self.stored)
            folder = next((one.folder for one in stored if one.name == name), None)
            if folder is None:
                names = [one.name for one in stored]
                raise UnknownModelError(
                    f"model={shown(name)} is not in the models' folder; one of {names}", "model"
                )
            served = await self._ready(folder, name)
            self._service.catalog.put(served)
            log.info("loaded %s %s", name, served.manifest.version)
            return served

    async def reload(self, name: str) -> Served:
        """Serve what is now in a model's folder, instead of what was there when it was loaded.

        Raises:
            ConflictError: If another change is under way.
            UnknownModelError: If no such model is served.
            ModelLoadError: If the new checkpoint cannot be served; the old one goes on.
        """
        served: Served = await self._change("reload", name)
        return served

    async def _reload(self, name: str) -> Served:
        async with self._alone():
            old = self._service.catalog.choose(name)
            served = await self._ready(old.folder, old.name)
            self._service.catalog.put(served)
            await self._release(old)
            log.info("reloaded %s: %s", old.name, served.manifest.version)
            return served

    async def unload(self, name: str) -> str:
        """Serve a model no longer, and return its own name.

        Raises:
            ConflictError: If another change is under way, or it is the last model.
            UnknownModelError: If no such model is served.
        """
        own: str = await self._change("unload", name)
        return own

    async def _unload(self, name: str) -> str:
        async with self._alone():
            old = self._service.catalog.choose(name)
            if len(self._service.catalog) == 1:
                raise ConflictError(f"model={shown(name)} is the last one served", "model")
            self._service.catalog.drop(old.name)
            await self._release(old)
            log.info("unloaded %s", old.name)
            return old.name

    async def _change(self, kind: str, name: str) -> Any:
        """Make a change here, then in the other HTTP processes.

        Raises:
            ConflictError: If one of them could not follow. It keeps what it served.
            RheostatError: If it cannot be made here.
        """
        done = await self._changes[kind](name)
        answers = await self._engine.core.ask_others(_OTHERS_S, "change", kind, name)
        if faults := [answer for answer in answers if answer]:
            raise ConflictError(f"not done in all HTTP processes: {faults[0]}", "model")
        return done

    async def _change_too(self, kind: str, name: str) -> str:
        """Follow another process; return why that was not possible, if it was not."""
        try:
            await self._changes[kind](name)
        except RheostatError as error:
            log.error("%s of %s, done in another process: %s", kind, name, error.message)
            return error.message
        return ""

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._is_busy:
            raise ConflictError("another model is being loaded or unloaded; try again after it")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _folders(self) -> list[Path]:
        try:
            return find_checkpoints(self._folder)
        except CatalogError:
            return []

    async def _ready(self, folder: Path, name: str) -> Served:
        """Return a model that has run once."""
        try:
            served = await asyncio.to_thread(
                load_one, folder, self._max_text_chars, self._engine.core.holds_weights
            )
        except CatalogError as error:
            raise ModelLoadError(str(error), "model") from None
        if served.name != name:
            raise ModelLoadError(f"{folder} now holds {served.name!r}, not {name!r}", "model")

        try:
            timed = served.timed(await self._engine.core.prepare(served))
            await asyncio.to_thread(lambda: timed.front)  # takes a moment, and metrics need it
            await self._service.warm(timed)
        except BaseException as error:
            await self._forget(served)
            if isinstance(error, CatalogError):  # of the engine's process, which reads the weights
                raise ModelLoadError(str(error), "model") from None
            raise
        return timed

    async def _release(self, old: Served) -> None:
        """Let go of a model once the requests that began with it are answered."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._service.uses.until_free(old)
        except TimeoutError:
            log.warning("%s is still used after %g s, and is let go", old.name, _PATIENCE_S)
        await self._forget(old)

    async def _forget(self, served: Served) -> None:
        self._service.audit.forget(served)
        self._service.pacing.forget(served)
        await self._service.variants.forget(served)
        await self._engine.core.forget_model(served)
        # Once those who called this have let go of it too.
        asyncio.get_running_loop().call_soon(garbage.collect)
