"""What models an HTTP process has the engine's process run."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from models.space import Subnet
from models.variants import Choices
from search.timing.profile import Corrections, LatencyProfile
from server.catalog import CatalogError
from server.engine.item import PreparedPlan
from server.engine.process.wire import Loaded, PlanRecipe, Recipe, packed_recipe
from server.errors import ModelNotReadyError, RheostatError
from server.served import Served

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RemoteModel:
    """A model that the engine's process has loaded for this one.

    Attributes:
        served: The model, without weights.
        number: Names it in the process that runs at the moment.
        profile: What searches predict by.
        variants: Choices whose weights have been built.
        expected: Subnets that it is fast at first, and whether that is built ahead.
    """

    served: Served
    number: int
    profile: LatencyProfile
    variants: set[Choices] = field(default_factory=set)
    expected: list[tuple[Subnet, bool]] = field(default_factory=list)


class RemoteModels:
    """Models without weights here, and their numbers there. For one event loop."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        """Begin with none.

        Args:
            call: Calls a method of the other side's `server.engine.process.models.Models`.
        """
        self._call = call
        self._known: dict[int, RemoteModel] = {}  # by identity of what makes their plans

    @property
    def known(self) -> list[RemoteModel]:
        """All models."""
        return list(self._known.values())

    async def load(self, served: Served) -> LatencyProfile:
        """Have a model loaded; return how long its steps take.

        Raises:
            CatalogError: If the other process cannot read the model.
            ModelNotReadyError: If it has gone, or the checkpoint has changed since it was read.
        """
        found: Loaded = await self._call("load", served.folder, served.manifest.digest)
        profile = LatencyProfile(**found.profile)
        profile.adopt(found.corrections, 1.0)
        self._known[id(served.model)] = RemoteModel(served, found.number, profile)
        return profile

    async def expect(self, served: Served, subnet: Subnet, build: bool) -> None:
        """As `server.engine.core.Core.expect`."""
        known = self._known[id(served.model)]
        await self._call("expect", known.number, tuple(subnet.items()), build)
        known.expected.append((subnet, build))

    async def build(self, served: Served, choices: Choices) -> int:
        """Have a variant built; return the bytes of its own weights."""
        known = self._known[id(served.model)]
        num_bytes: int = await self._call("build", known.number, choices)
        known.variants.add(choices)
        return num_bytes

    async def drop(self, served: Served, choices: Choices) -> None:
        """Have a variant given up."""
        known = self._known[id(served.model)]
        known.variants.discard(choices)
        await self._call("drop", known.number, choices)

    async def forget(self, served: Served) -> None:
        """Have a model given up."""
        if (known := self._known.pop(id(served.model), None)) is not None:
            await self._call("forget", known.number)

    def learnt(self, number: int, corrections: Corrections, drift: float) -> None:
        """Take in how the times of a model are corrected by now."""
        for known in self._known.values():
            if known.number == number:
                known.profile.adopt(corrections, drift)

    def recipe(self, prepared: PreparedPlan) -> Recipe:
        """Return what makes the same plan on the other side.

        Raises:
            ModelNotReadyError: If its model has gone.
        """
        assert prepared.subnet is not None
        known = self._known.get(id(prepared.owner))
        if known is None:
            raise ModelNotReadyError("the model has gone")
        return packed_recipe(
            PlanRecipe(
                known.number,
                tuple(prepared.subnet.items()),
                tuple(prepared.plan.answers),
                prepared.is_raw,
                prepared.keep,
                prepared.known,
            )
        )

    async def restore(self, is_current: Callable[[], bool]) -> bool:
        """Have another process load what the one before had.

        Args:
            is_current: Returns whether that process is still there.

        Returns:
            The same, at the end.
        """
        for known in self.known:
            try:
                await self._restore(known)
            except (RheostatError, CatalogError, RuntimeError) as error:
                if not is_current():
                    return False
                # Its requests get 503 until somebody reloads it.
                log.error("%s cannot be served any more: %s", known.served.name, error)
                del self._known[id(known.served.model)]
        return is_current()

    async def _restore(self, known: RemoteModel) -> None:
        served = known.served
        found: Loaded = await self._call("load", served.folder, served.manifest.digest)
        known.number = found.number
        known.profile.adopt(found.corrections, 1.0)
        for choices in known.variants:
            await self._call("build", found.number, choices)
        for subnet, build in known.expected:
            await self._call("expect", found.number, tuple(subnet.items()), build)
