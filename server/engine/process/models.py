"""The models of the engine's process: read once, whoever asks for them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from models import checkpoint
from models.checkpoint import CheckpointError
from models.elastic import Elastic
from models.space import Subnet
from models.variants import Choices, added_bytes, choices_of, loaded
from search.timing.profile import LatencyProfile
from server import garbage
from server.catalog import CatalogError, load_one
from server.engine.item import PreparedPlan
from server.engine.process.wire import Loaded, PlanRecipe, Recipe, unpacked_recipe
from server.engine.worker_core import WorkerCore, built
from server.errors import ModelNotReadyError
from server.served import Served

_MAX_PLANS = 4096
_SPARE_S = 60.0  # in which a process that has died should be back


@dataclass(eq=False)
class HeldModel:
    """A model, and which connections serve it.

    Attributes:
        number: Names it.
        served: The model.
        holders: Connections, each with how often it has loaded the model.
        builders: Connections, each with the variants that it has had built.
        variants: Built, by their choices.
        left_at: When the last connection was lost, on the clock.
    """

    number: int
    served: Served
    holders: Counter[object] = field(default_factory=Counter)
    builders: dict[object, set[Choices]] = field(default_factory=dict)
    variants: dict[Choices, nn.Module] = field(default_factory=dict)
    left_at: float = 0.0


class Models:
    """Reads models, builds their variants and makes their plans. For any threads.

    A model goes when the last connection that serves it has said so. One whose connection is lost
    stays for a minute at least: the process of the connection is being started again.
    """

    def __init__(
        self,
        core: WorkerCore,
        max_text_chars: int,
        clock: Callable[[], float],
    ) -> None:
        """Begin with none.

        Args:
            core: Runs them.
            max_text_chars: As for `server.catalog.load_one`.
            clock: Returns seconds.
        """
        self._clock = clock
        self._core, self._max_text_chars = core, max_text_chars
        self._held: dict[int, HeldModel] = {}
        self._lock = threading.Lock()  # one model comes or goes at a time
        self._next = 0
        self.plan_of: Callable[[Recipe], PreparedPlan] = lru_cache(_MAX_PLANS)(self._plan_of)

    def load(self, holder: object, folder: Path, digest: str) -> Loaded:
        """Read a model, unless the same is there.

        Args:
            holder: The connection that will serve it.
            folder: Of its checkpoint.
            digest: Of its manifest, as the holder has read it.

        Raises:
            CatalogError: If it cannot be served.
            ModelNotReadyError: If the folder holds something else by now.
        """
        with self._lock:
            self._purge()
            found = (held for held in self._held.values() if _is(held.served, folder, digest))
            held = next(found, None) or self._read(folder, digest)
            if holder in held.holders:
                _check(held.served)
            held.holders[holder] += 1
            profile = held.served.profile
            assert profile is not None
            return Loaded(held.number, profile.measured, profile.corrections)

    def forget(self, holder: object, number: int) -> None:
        """Let a model go, if nobody else serves it."""
        with self._lock:
            held = self._held[number]
            held.holders[holder] -= 1
            if not held.holders[holder]:
                self._let_go(held, holder)
            if is_over := not held.holders:
                self._remove(held)
            del held
            if is_over:
                garbage.collect()

    def leave(self, holder: object) -> None:
        """Note that a connection is lost."""
        with self._lock:
            for held in self._held.values():
                if holder in held.holders:
                    self._let_go(held, holder)
                    held.left_at = self._clock()

    def build(self, holder: object, number: int, choices: Choices) -> int:
        """Build a variant, unless it is there; return the bytes of its own weights."""
        with self._lock:
            held = self._held[number]
            if choices not in held.variants:
                model = built(held.served, choices)
                self._core.worker.call(lambda: self._core.backend.prepare(model)).result()
                held.variants[choices] = model
            held.builders.setdefault(holder, set()).add(choices)
            return added_bytes(held.variants[choices], held.served.model)

    def drop(self, holder: object, number: int, choices: Choices) -> None:
        """Give up a variant, if nobody else uses it."""
        with self._lock:
            held = self._held[number]
            held.builders.setdefault(holder, set()).discard(choices)
            self._drop(held, choices)

    def expect(
        self, holder: object, number: int, subnet: tuple[tuple[str, Any], ...], build: bool
    ) -> None:
        """Have the back end be fast first at a subnet; see `server.engine.core.Core.expect`."""
        held, wanted = self._held[number], Subnet(subnet)
        model = self._model_of(held, wanted)
        call = partial(self._core.expect_plan, held.served, model, wanted, build)
        self._core.worker.call(call).result()

    def number_of(self, owner: object) -> int | None:
        """Return the number of a model by its weights; None if it has gone."""
        found = (held.number for held in list(self._held.values()) if held.served.model is owner)
        return next(found, None)

    def profile(self, number: int) -> LatencyProfile | None:
        """Return the profile of a model."""
        held = self._held.get(number)
        return held.served.profile if held else None

    def _plan_of(self, recipe: Recipe) -> PreparedPlan:
        wanted: PlanRecipe = unpacked_recipe(recipe)
        held = self._held.get(wanted.model)
        if held is None:
            raise ModelNotReadyError("the model has gone")
        subnet = Subnet(wanted.subnet)
        model = self._model_of(held, subnet)
        plan = held.served.prepare_with(model, subnet, wanted.tasks, wanted.raw)
        return replace(plan, keep=wanted.keep, known=wanted.known)

    def _model_of(self, held: HeldModel, subnet: Subnet) -> Elastic:
        """Return the model that has the weights that a subnet names."""
        space = held.served.elastic.space
        choices = choices_of(space, subnet)
        found: Any = held.served.elastic
        if choices != tuple(loaded(space).values()):
            found = held.variants.get(choices)
            if found is None:
                raise ModelNotReadyError(f"{held.served.name}: the weights of {choices} have gone")
        model: Elastic = found
        return model

    def _read(self, folder: Path, digest: str) -> HeldModel:
        served = load_one(folder, self._max_text_chars)
        if not _is(served, folder, digest):
            raise ModelNotReadyError(f"{folder} has changed while it was read")
        profile = self._core.worker.call(lambda: self._core.load(served)).result()
        held = self._held[self._next] = HeldModel(self._next, served.timed(profile))
        self._next += 1
        garbage.settle()
        return held

    def _let_go(self, held: HeldModel, holder: object) -> None:
        del held.holders[holder]
        for choices in held.builders.pop(holder, set()):
            self._drop(held, choices)

    def _purge(self) -> None:
        since = self._clock() - _SPARE_S
        gone = [one for one in self._held.values() if not one.holders and one.left_at < since]
        if not gone:
            return
        while gone:
            self._remove(gone.pop())
        garbage.collect()

    def _remove(self, held: HeldModel) -> None:
        del self._held[held.number]
        for choices in list(held.variants):
            self._drop(held, choices)
        self._give_up(held.served.model)

    def _drop(self, held: HeldModel, choices: Choices) -> None:
        if choices in held.variants and not any(choices in own for own in held.builders.values()):
            self._give_up(held.variants.pop(choices), beside=held.served.model)

    def _give_up(self, model: nn.Module, beside: nn.Module | None = None) -> None:
        self.plan_of.cache_clear()  # type: ignore[attr-defined]  # plans hold weights
        self._core.worker.call(lambda: self._core.forget(model, beside)).result()


def _check(served: Served) -> None:
    """Refuse to load again what lies there damaged by now; CatalogError that names the file."""
    try:
        checkpoint.verify(served.folder, served.manifest)
    except CheckpointError as error:
        raise CatalogError(str(error)) from None


def _is(served: Served, folder: Path, digest: str) -> bool:
    return served.folder == folder and served.manifest.digest == digest
