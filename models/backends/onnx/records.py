"""What a back end has built, tried and counted, and so which session is worth building next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from models.backends.onnx.export import Exported
from models.backends.onnx.sessions import Held, Session, SessionCache

T = TypeVar("T")

_MAX_WAITING = 64  # sessions; what does not find room is wanted again at its next call
_MAX_KEYS = 4096  # of functions whose calls are counted, of those refused, and of those slower
_MAX_GRAPHS = 512  # exported functions, about 30 kB each


@dataclass(frozen=True)
class SessionPolicy:
    """When a session is worth its building.

    Attributes:
        step_after: Calls of a step; more than those by which a server warms up.
        fuse_after: Calls of a chain of several steps. Its session comes on top of its steps'.
        max_others: Sessions kept of chains that were not expected, but called for often enough.
    """

    step_after: int = 3
    fuse_after: int = 50
    max_others: int = 128


class SessionStats(NamedTuple):
    """What a back end has done and holds.

    Attributes:
        hits: Sessions run.
        misses: Steps that torch ran.
        builds: Sessions built and kept.
        evictions: Sessions given up for others.
        refused: Steps and chains that have no session because it cannot be built or is wrong.
        slower: Those whose session was given up because it was never faster.
        waiting: Sessions still to be built.
        sessions: Sessions held.
        bytes: What those hold.
    """

    hits: int
    misses: int
    builds: int
    evictions: int
    refused: int
    slower: int
    waiting: int
    sessions: int
    bytes: int


class Records:
    """Sessions, and what is known of chains that have none; for several threads at once."""

    def __init__(self, max_bytes: int, policy: SessionPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._sessions = SessionCache(max_bytes, policy.max_others)
        self._hits = self._misses = self._builds = 0
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._refused: OrderedDict[Hashable, None] = OrderedDict()
        self._slower: OrderedDict[Hashable, None] = OrderedDict()
        self._graphs: OrderedDict[Hashable, Exported] = OrderedDict()
        self._waiting: dict[Hashable, int] = {}  # calls meanwhile
        self._closed = False

    @property
    def stats(self) -> SessionStats:
        """Counters and levels at this moment."""
        with self._lock:
            return SessionStats(
                hits=self._hits,
                misses=self._misses,
                builds=self._builds,
                evictions=self._sessions.evictions,
                refused=len(self._refused),
                slower=len(self._slower),
                waiting=len(self._waiting),
                sessions=len(self._sessions),
                bytes=self._sessions.num_bytes,
            )

    def session(self, key: Hashable, size: int) -> Session | None:
        """Return the session for batches of a size, an index of `models.backends.timing.SIZES`."""
        with self._lock:
            return _for_size(self._sessions.get(key), size)

    def call(self, key: Hashable, size: int, is_step: bool) -> tuple[Session | None, bool]:
        """Count a call; return its session, and whether one is to be built and now waited for.

        Args:
            key: Of a chain.
            size: As for `session`.
            is_step: Whether the chain has one step, so that torch runs it if there is no session.
        """
        after = self._policy.step_after if is_step else self._policy.fuse_after
        with self._lock:
            held = self._sessions.get(key)
            session = _for_size(held, size)
            self._hits += session is not None
            self._misses += session is None and is_step
            if not self._is_open(key):
                if key in self._waiting:
                    self._waiting[key] += 1
                return session, False
            calls = self._calls.pop(key, 0) + 1
            _keep(self._calls, key, calls, _MAX_KEYS)
            is_wanted = calls >= after and len(self._waiting) < _MAX_WAITING
            if is_wanted:
                self._waiting[key] = 0
            return session, is_wanted

    def want(self, key: Hashable) -> bool:
        """Wait for a session without any calls; return False if that is in vain."""
        with self._lock:
            is_open = self._is_open(key)
            if is_open:
                self._waiting[key] = 0
            return is_open

    def expect(self, key: Hashable) -> None:
        """Keep the session of a chain, once it has one, before those of chains not expected."""
        with self._lock:
            self._sessions.expected.add(key)

    def is_waiting(self, key: Hashable) -> bool:
        """Return whether a session is still waited for."""
        with self._lock:
            return key in self._waiting

    def most_called(self, keys: Iterable[Hashable]) -> Hashable:
        """Return the one that was called most while it waited, the first of several."""
        with self._lock:
            return max(keys, key=lambda key: self._waiting.get(key, -1))

    def graph(self, key: Hashable) -> Exported | None:
        """Return an exported function."""
        with self._lock:
            return self._graphs.get(key)

    def enter(self, key: Hashable, held: Held | None, graphs: Mapping[Hashable, Exported]) -> bool:
        """Keep what came of a build, unless nobody waits for it any more; return whether one did.

        Args:
            key: Of the chain.
            held: Its session; None if there can be none.
            graphs: Functions exported for it.
        """
        with self._lock:
            if key not in self._waiting:
                return False
            del self._waiting[key]
            self._calls.pop(key, None)
            for function, graph in graphs.items():
                _keep(self._graphs, function, graph, _MAX_GRAPHS)
            if held is None:
                _keep(self._refused, key, None, _MAX_KEYS)
            elif not any(size.is_faster for size in held.sizes):
                _keep(self._slower, key, None, _MAX_KEYS)
            else:
                self._builds += 1
                self._sessions.put(key, held)
            return True

    def forget(self, is_unwanted: Callable[[Hashable], bool]) -> None:
        """Drop all that is kept under some keys, and do not wait for it."""
        known: tuple[OrderedDict[Hashable, Any], ...] = (
            self._calls,
            self._refused,
            self._slower,
            self._graphs,
        )
        with self._lock:
            self._sessions.drop(is_unwanted)
            for entries in known:
                for key in filter(is_unwanted, list(entries)):
                    del entries[key]
            self._waiting = {k: n for k, n in self._waiting.items() if not is_unwanted(k)}

    def close(self) -> None:
        """Wait for no session any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _is_open(self, key: Hashable) -> bool:
        """Return whether a session might yet be built."""
        decided = (self._sessions, self._refused, self._slower, self._waiting)
        return not self._closed and not any(key in keys for keys in decided)


def _for_size(held: Held | None, size: int) -> Session | None:
    return held.session if held is not None and held.sizes[size].is_faster else None


def _keep(known: OrderedDict[Hashable, T], key: Hashable, value: T, size: int) -> None:
    """Add an entry as the newest, and drop the oldest if there are too many."""
    known[key] = value
    if len(known) > size:
        known.popitem(last=False)
