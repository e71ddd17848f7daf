"""What runs items: a worker, a cache and the models, in this process or in another one.

The front (`server.engine.engine.Engine`) admits requests and waits for their answers. It sees no
thread, no weights and no back end: what it asks of a core, another process can do as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from models.space import Subnet
from models.variants import Choices
from search.timing.profile import LatencyProfile
from server.engine.batch import Waiting
from server.engine.cache import CacheStats
from server.engine.flows import Held
from server.engine.item import ItemResult
from server.errors import RheostatError
from server.served import Served

T = TypeVar("T")

_LONGEST_BATCH = 0.25  # of the longest wait: what comes next waits for the end of a batch


class Events(Protocol):
    """What a core tells, on the event loop."""

    def taken(self, batch: Sequence[Waiting], size: int) -> None:
        """Items of this process have been taken for a batch; its size, 0 if another counts it."""

    def answered(self, results: Sequence[tuple[Waiting, ItemResult]]) -> None:
        """Some items are done."""

    def failed(self, batch: Sequence[Waiting], texts: Sequence[str]) -> None:
        """Some have no answer; the texts say why, one for each."""

    def expired(self, items: Sequence[Waiting]) -> None:
        """Some came to their turn after their deadline."""

    def refused(self, items: Sequence[Waiting], text: str) -> None:
        """Some could not be put in: what they need has gone."""

    def others_hold(self, process: int, held: Held) -> None:
        """Another HTTP process of the server has this inside now."""

    def ended(self, error: Callable[[], RheostatError]) -> None:
        """Nothing that was put in before is answered any more; why, for each that waits."""


class Stats(NamedTuple):
    """Levels and counters of what the models run with.

    Attributes:
        backend: Of the back end, if it counts anything.
        cache: Of the cache.
    """

    backend: NamedTuple | None
    cache: CacheStats


class Core(Protocol):
    """Runs items in batches on one device. For one event loop.

    Attributes:
        holds_weights: Whether plans of models in this process can be run. If not, models are read
            without their weights.
        pace: Seconds that batches lately took for each predicted one.
        running: What runs now, as far as it is of this process.
        is_shared: Whether other HTTP processes of the server put items in as well.
        answering: What this process does when another one asks, by name.
        running_until: When the batch that runs now is predicted to end, on the clock; 0 if there
            is none.
    """

    holds_weights: bool
    is_shared: bool
    answering: dict[str, Callable[..., Awaitable[Any]]]

    @property
    def pace(self) -> float: ...  # noqa: D102

    @property
    def running(self) -> Sequence[Waiting]: ...  # noqa: D102

    @property
    def running_until(self) -> float: ...  # noqa: D102

    @property
    def is_alive(self) -> bool:
        """Whether items are accepted and there is somebody to run them."""

    @property
    def backend_name(self) -> str:
        """What receipts call the back end."""

    @property
    def pid(self) -> int | None:
        """Of the process that runs the models; None if it is this one."""

    @property
    def stats(self) -> Stats:
        """Levels and counters."""

    @property
    def levels(self) -> frozenset[str]:
        """Fields of the back end's stats that may fall."""

    async def start(self, events: Events) -> None:
        """Begin; call once. Raises RheostatError if it cannot."""

    async def close(self) -> None:
        """Refuse new items, finish those accepted and stop."""

    def check_open(self) -> None:
        """Raise ModelNotReadyError if nobody would run what is put in."""

    def put(self, waiting: Sequence[Waiting]) -> list[tuple[Waiting, ItemResult]]:
        """Let items wait for their turn; return those that the cache answers at once.

        Raises:
            ModelNotReadyError: If nobody would run them.
        """

    def discard(self, waiting: Sequence[Waiting]) -> None:
        """Take items out that still wait."""

    def tell_held(self, held: Held) -> None:
        """Tell the server's other HTTP processes what this one has inside."""

    async def ask_others(self, timeout_s: float, name: str, *arguments: Any) -> list[Any]:
        """Return what the server's other HTTP processes answer, by `answering`, in time."""

    async def prepare(self, served: Served) -> LatencyProfile:
        """Make a model ready to run, and return how long its steps take."""

    async def expect(self, served: Served, subnet: Subnet, build: bool = True) -> None:
        """Be fast first at a subnet, whose weights are there.

        Args:
            served: The model.
            subnet: Chosen often, or likely to be.
            build: Whether to build now, not only once it is called for.
        """

    async def build(self, served: Served, choices: Choices) -> tuple[Any, int]:
        """Build a variant; return what makes plans of it, and the bytes of its own weights."""

    async def drop(self, served: Served, choices: Choices) -> None:
        """Give up a variant."""

    async def forget_model(self, served: Served) -> None:
        """Give up all that is kept for a model that runs no more."""
