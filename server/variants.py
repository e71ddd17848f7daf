"""Variants of models: the weights of choices on load axes, built when a request needs them.

Those built are kept within a bound of bytes, those unused for longest given up first. The weights
that a model was loaded with stay. Used from the event loop; building happens on a thread beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from models.elastic import Elastic
from models.space import Subnet
from models.variants import Choices, all_choices, choices_of, load_axes
from server.engine.engine import Engine
from server.engine.item import PreparedPlan
from server.errors import ModelNotReadyError
from server.served import Served

log = logging.getLogger(__name__)

_MAX_PLANS = 1024  # per variant
_MAX_OTHERS = 1  # variants that nothing prefers and that stay: the one that was asked for last
_FIRST_S = 1.0  # that building is taken to take before one has been built


class VariantStats(NamedTuple):
    """What has been built and is held.

    Attributes:
        builds: Variants built.
        failures: Builds that failed.
        evictions: Variants given up for others.
        seconds: That builds have taken together.
        resident: Variants held, without those that models were loaded with.
        bytes: What their own weights hold.
    """

    builds: int = 0
    failures: int = 0
    evictions: int = 0
    seconds: float = 0.0
    resident: int = 0
    bytes: int = 0


@dataclass(eq=False)
class _Variant:
    """A built variant.

    Attributes:
        served: The model.
        choices: On the load axes.
        num_bytes: Of its weights that are not the base model's.
        prepare: Plans of it; kept here, so that they go with the weights.
    """

    served: Served
    choices: Choices
    num_bytes: int
    prepare: Callable[..., PreparedPlan]


class Variants:
    """The pool of all models; for one event loop."""

    def __init__(self, engine: Engine, max_bytes: int, clock: Callable[[], float]) -> None:
        """Start empty.

        Args:
            engine: On whose thread weights are placed and forgotten.
            max_bytes: What variants may hold together.
            clock: Returns seconds.
        """
        self._engine = engine
        self._max_bytes = max_bytes
        self._clock = clock
        self._built: OrderedDict[tuple[int, Choices], _Variant] = OrderedDict()
        self._building: dict[tuple[int, Choices], asyncio.Task[None]] = {}
        self._refused: set[tuple[int, Choices]] = set()  # too large, or the build failed
        self._preferred: dict[int, frozenset[Choices]] = {}  # by model
        self._seconds: dict[int, float] = {}  # of the last build, by model
        self._alone = asyncio.Lock()
        self._stats = VariantStats()

    @property
    def stats(self) -> VariantStats:
        """Counters and levels at this moment."""
        held = sum(variant.num_bytes for variant in self._built.values())
        return self._stats._replace(resident=len(self._built), bytes=held)

    def resident(self, served: Served) -> frozenset[Choices] | None:
        """Return the choices whose weights are there; None for a model without load axes."""
        axes = load_axes(served.elastic.space)
        if not axes:
            return None
        own = {choices for model, choices in self._built if model == id(served.model)}
        return frozenset({*own, tuple(axis.values[-1] for axis in axes)})

    def possible(self, served: Served) -> frozenset[Choices]:
        """Return all choices but those whose weights cannot be had."""
        every = all_choices(served.elastic.space)
        return frozenset(one for one in every if (id(served.model), one) not in self._refused)

    def prefer(self, served: Served, choices: Collection[Choices]) -> None:
        """Keep some choices of a model before others, of which one variant in all is kept."""
        self._preferred[id(served.model)] = frozenset(choices)

    def predicted_s(self, served: Served) -> float:
        """Return how long building a variant of a model is predicted to take."""
        return self._seconds.get(id(served.model), _FIRST_S)

    def prepare(
        self, served: Served, subnet: Subnet, tasks: Collection[str], raw: bool = False
    ) -> PreparedPlan:
        """Return the plan of a subnet, as `Served.prepare`, with the weights that it names.

        Raises:
            ModelNotReadyError: If they have been given up since the subnet was chosen.
        """
        choices = choices_of(served.elastic.space, subnet)
        if not choices or choices == all_choices(served.elastic.space)[-1]:
            return served.prepare(subnet, tasks, raw)
        variant = self._built.get((id(served.model), choices))
        if variant is None:
            raise ModelNotReadyError(f"{served.name}: the weights of {choices} have been given up")
        self._built.move_to_end((id(served.model), choices))
        return variant.prepare(subnet, tuple(tasks), raw)

    async def build(self, served: Served, choices: Choices) -> None:
        """Have the weights of choices there; whoever asks for the same waits for the same build.

        Raises:
            ModelNotReadyError: If they cannot be built.
        """
        key = (id(served.model), choices)
        if key not in self._built and choices != all_choices(served.elastic.space)[-1]:
            # Shielded: a client that leaves does not end a build that others wait for.
            await asyncio.shield(self.begin(served, choices))

    def begin(self, served: Served, choices: Choices) -> asyncio.Task[None]:
        """Begin to build what is not there, without waiting for it."""
        key = (id(served.model), choices)
        if key not in self._building:
            task = asyncio.create_task(self._build(served, choices))
            self._building[key] = task
            task.add_done_callback(lambda _: self._building.pop(key, None))
            task.add_done_callback(_observed)
        return self._building[key]

    async def _build(self, served: Served, choices: Choices) -> None:
        async with self._alone:
            start = self._clock()
            try:
                model, num_bytes = await self._engine.core.build(served, choices)
            except Exception as error:
                self._stats = self._stats._replace(failures=self._stats.failures + 1)
                self._refused.add((id(served.model), choices))
                log.exception("no variant %s of %s", choices, served.name)
                raise ModelNotReadyError(
                    f"{served.name}: the weights of {choices} cannot be built: {error}"
                ) from None
            taken = self._clock() - start
        self._seconds[id(served.model)] = taken
        self._stats = self._stats._replace(
            builds=self._stats.builds + 1, seconds=self._stats.seconds + taken
        )
        log.info("built %s of %s in %.2f s", choices, served.name, taken)
        if num_bytes > self._max_bytes:
            self._refused.add((id(served.model), choices))
            await self._engine.core.drop(served, choices)
            raise ModelNotReadyError(
                f"{served.name}: the weights of {choices} hold {num_bytes} bytes; at most "
                f"{self._max_bytes} are allowed (max_variant_bytes)"
            )
        variant = _Variant(served, choices, num_bytes, _preparing(served, model))
        self._built[id(served.model), choices] = variant
        await self._evict()

    async def forget(self, served: Served) -> None:
        """Give up all variants of a model that is served no longer."""
        for key in [key for key in self._built if key[0] == id(served.model)]:
            del self._built[key]
            await self._engine.core.drop(served, key[1])
        self._seconds.pop(id(served.model), None)
        self._preferred.pop(id(served.model), None)
        self._refused = {key for key in self._refused if key[0] != id(served.model)}

    async def _evict(self) -> None:
        """Give up variants until the rest fits; the one built last is waited for, and fits."""
        while True:
            *others, _ = self._built
            first = [key for key in others if not self._is_preferred(key)]
            num_others = sum(not self._is_preferred(key) for key in self._built)
            if self.stats.bytes <= self._max_bytes and num_others <= _MAX_OTHERS:
                return
            given_up = self._built.pop(first[0] if first else others[0])
            self._stats = self._stats._replace(evictions=self._stats.evictions + 1)
            await self._engine.core.drop(given_up.served, given_up.choices)

    def _is_preferred(self, key: tuple[int, Choices]) -> bool:
        # Where nobody has said what is preferred, all is.
        return key[1] in self._preferred.get(key[0], (key[1],))


def _observed(task: asyncio.Task[None]) -> None:
    """Take an error that nobody waits for; it has been logged."""
    if not task.cancelled():
        task.exception()


def _preparing(served: Served, model: Elastic) -> Callable[..., PreparedPlan]:
    """Return a function that makes plans of a variant, each once."""
    return lru_cache(_MAX_PLANS)(
        lambda subnet, tasks, raw: served.prepare_with(model, subnet, tasks, raw)
    )
