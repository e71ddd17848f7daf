"""Run chains of steps with ONNX Runtime, on the CPU or a CUDA device.

Building a session takes seconds (`models.backends.export`), so a thread does it while torch runs
the steps. A step that is called again gets a session, a chain that is called often one for all its
steps. What cannot be exported, or whose session does not give torch's results, torch runs for good.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import NamedTuple, TypeVar

import onnxruntime as ort
import torch

from models.backends.chains import Chain, Run, Sample, function_key
from models.backends.export import Graph, export, join
from models.backends.layouts import LayoutTensors
from models.backends.sessions import Session, SessionCache, share_pools
from models.backends.torch import TorchBackend
from models.core import Step
from models.execution import StoppedError, Value, never
from models.ragged import Ragged

T = TypeVar("T")

log = logging.getLogger(__name__)

_MAX_WAITING = 64  # sessions; what does not find room is wanted again at its next call
_MAX_KEYS = 4096  # of functions whose calls are counted, and of those refused
_MAX_GRAPHS = 512  # exported functions, about 30 kB each
_EXAMPLE = (3, 5, 4)  # lengths of the rows that a function is traced with
_CHECKS = ((4, 1, 6, 2), (1,), (3, 3))  # of batches on which a session must be right
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Policy:
    """When a session is worth its building.

    Attributes:
        step_after: Calls of a step.
        fuse_after: Calls of a chain of several steps. Its session comes on top of its steps'.
    """

    step_after: int = 2
    fuse_after: int = 50


class Stats(NamedTuple):
    """What a back end has done and holds.

    Attributes:
        hits: Sessions run.
        misses: Steps that torch ran.
        builds: Sessions built.
        evictions: Sessions given up for others.
        refused: Steps and chains that torch runs for good.
        waiting: Sessions still to be built.
        sessions: Sessions held.
        bytes: What those hold.
    """

    hits: int
    misses: int
    builds: int
    evictions: int
    refused: int
    waiting: int
    sessions: int
    bytes: int


class _Wanted(NamedTuple):
    key: Hashable
    chain: Chain
    sample: Sample


class OnnxBackend(TorchBackend):
    """Runs chains of steps: by session where there is one, by torch where there is not.

    Sessions are kept until they hold more than a bound. Then those not used for longest go, and
    must be called for as often as at first to come back.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        max_bytes: int,
        threads: int = 1,
        policy: Policy | None = None,
        pack: bool = True,
    ) -> None:
        """Make a back end without sessions.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            max_bytes: What the sessions may hold together, beside the weights they share.
            threads: Of the one pool of all sessions in this process.
            policy: When to build sessions.
            pack: Whether each session rearranges its weights for the processor: faster for small
                batches, but a copy for each.

        Raises:
            ValueError: If this ONNX Runtime cannot use the device, or has other threads already.
        """
        super().__init__(device)
        if self.device == torch.device("cuda"):
            self.device = torch.device("cuda", 0)
        provider = f"{self.device.type.upper()}ExecutionProvider"
        if provider not in (available := ort.get_available_providers()):
            raise ValueError(f"device={device!r} needs {provider}; this runtime has {available}")
        share_pools(threads)
        self._pack = pack
        self._policy = policy or Policy()
        self._layouts = LayoutTensors()
        self._lock = threading.Lock()  # for all that follows
        self._sessions = SessionCache(max_bytes)
        self._hits = self._misses = self._builds = 0
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._refused: OrderedDict[Hashable, None] = OrderedDict()
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._waiting: set[Hashable] = set()
        self._queue: Queue[_Wanted | None] = Queue()  # as long as _waiting
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """What receipts call this back end, for example ``onnx-cpu``."""
        return f"onnx-{self.device.type}"

    @property
    def stats(self) -> Stats:
        """Counters and levels at this moment."""
        with self._lock:
            return Stats(
                hits=self._hits,
                misses=self._misses,
                builds=self._builds,
                evictions=self._sessions.evictions,
                refused=len(self._refused),
                waiting=len(self._waiting),
                sessions=len(self._sessions),
                bytes=self._sessions.num_bytes,
            )

    def run_chain(
        self, steps: Sequence[Step], values: Mapping[str, Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps; see `models.execution.Backend.run_chain`.

        A session of several steps asks ``stop`` once, before it starts.
        """
        chain = Chain(steps)
        inputs = chain.inputs(values)
        session = self._find(chain, inputs)
        if session is None and len(steps) > 1:
            seen = dict(values)
            for step in steps:
                seen[step.emits] = self.run_chain((step,), seen, stop)
            return seen[steps[-1].emits]
        if stop():
            raise StoppedError
        return session.run(inputs, self._layouts) if session else chain.run(inputs)

    @torch.inference_mode()
    def warm(self, steps: Sequence[Step], values: Mapping[str, Value]) -> None:
        """Build the sessions of a chain and of its steps now; `stats` tells which were refused.

        Args:
            steps: As for `run_chain`.
            values: As for `run_chain`, any small batch.
        """
        chain = Chain(steps)
        inputs = chain.inputs(values)
        if len(steps) > 1:
            seen = dict(values)
            for step in steps:
                self.warm((step,), seen)
                seen[step.emits] = step.run(*(seen[name] for name in step.takes))
        key = chain.key(inputs)
        with self._lock:
            is_known = key in self._sessions or key in self._refused
        if not is_known:
            self._build(_Wanted(key, chain, Sample(inputs)))

    def close(self) -> None:
        """End the thread, once it has finished the session it is at; no others are built."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()
        with self._lock:
            self._waiting.clear()

    def _find(self, chain: Chain, inputs: Sequence[Value]) -> Session | None:
        """Return the chain's session, or see to it that there will be one if it is worth it."""
        key = chain.key(inputs)
        is_step = len(chain.runs) == 1
        with self._lock:
            session = self._sessions.get(key)
            self._hits += session is not None
            self._misses += session is None and is_step
            if session is not None:
                return session
            after = self._policy.step_after if is_step else self._policy.fuse_after
            if self._is_wanted(key, after):
                self._waiting.add(key)
                self._queue.put(_Wanted(key, chain, Sample(inputs)))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="onnx", daemon=True)
                    self._thread.start()
        return None

    def _is_wanted(self, key: Hashable, after: int) -> bool:
        """Count a call and return whether a session is to be built."""
        if key in self._refused or key in self._waiting:
            return False
        calls = self._calls.pop(key, 0) + 1
        _keep(self._calls, key, calls, _MAX_KEYS)
        return calls >= after and len(self._waiting) < _MAX_WAITING and not self._closed

    def _work(self) -> None:
        while (wanted := self._queue.get()) is not None:
            if not self._closed:
                self._build(wanted)

    def _build(self, wanted: _Wanted) -> None:
        session: Session | None = None
        try:
            session = self._make(wanted)
        except Exception as error:  # noqa: BLE001 - exporter and runtime raise whatever they like
            log.warning("torch keeps %s: %s", wanted.chain.runs, str(error)[:500])
        with self._lock:
            self._waiting.discard(wanted.key)
            self._calls.pop(wanted.key, None)
            if session is None:
                _keep(self._refused, wanted.key, None, _MAX_KEYS)
                return
            self._builds += 1
            self._sessions.put(wanted.key, session)

    def _make(self, wanted: _Wanted) -> Session:
        """Build a session and compare it with torch.

        Raises:
            Exception: If there can be no session for this chain.
        """
        chain, graphs = wanted.chain, []

        def call(run: Run, args: Sequence[Value]) -> Value:
            graphs.append(self._graph(run, args))
            return run(*args)  # type: ignore[no-any-return]

        # Tracing is not made for inference mode, which `warm` may be called in.
        with torch.inference_mode(False), torch.no_grad():
            chain.run(wanted.sample.batch(_EXAMPLE), call)
            graph = join(graphs, chain.sources) if len(graphs) > 1 else graphs[0]
            session = Session(graph, self.device, self._pack)
            if session.num_bytes > (allowed := self._sessions.max_bytes):
                raise ValueError(f"its session takes {session.num_bytes} bytes of {allowed}")
            for lengths in _CHECKS:
                inputs = wanted.sample.batch(lengths)
                results = (session.run(inputs, LayoutTensors()), chain.run(inputs))
                found, expected = (r.values if isinstance(r, Ragged) else r for r in results)
                torch.testing.assert_close(found, expected, atol=_TOLERANCE, rtol=_TOLERANCE)
        return session

    def _graph(self, run: Run, args: Sequence[Value]) -> Graph:
        key = function_key(run, args)
        with self._lock:
            graph = self._graphs.get(key)
        if graph is None:
            graph = export(run, args)
            with self._lock:
                _keep(self._graphs, key, graph, _MAX_GRAPHS)
        return graph


def _keep(known: OrderedDict[Hashable, T], key: Hashable, value: T, size: int) -> None:
    """Add an entry as the newest, and drop the oldest if there are too many."""
    known[key] = value
    if len(known) > size:
        known.popitem(last=False)
