"""Run chains of steps with ONNX Runtime, on the CPU or a CUDA device.

Building a session takes seconds. A thread does it, with a process that exports
(`models.backends.onnx.process`), while torch runs the steps. A step that is called some times gets
a session, a chain that is called often, or expected to be, one for all its steps. What cannot be
exported, or whose session does not give torch's results, torch runs for good. A session runs the
sizes of batches for which it was faster than what ran them before; one that was faster for none is
given up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple
from weakref import WeakKeyDictionary

import onnxruntime as ort
import torch
from torch import nn

from models.backends.onnx.building import Builder, Graphs, TooLargeError
from models.backends.onnx.export import Exporter
from models.backends.onnx.kept import KeptGraphs
from models.backends.onnx.layouts import LayoutTensors
from models.backends.onnx.process import ExportProcess
from models.backends.onnx.records import Records, SessionPolicy, SessionStats
from models.backends.onnx.sessions import Held, Session, share_pools
from models.backends.timing import SIZES, Clock, lengths, size_of
from models.backends.torch import TorchBackend
from models.core import Plan, Step
from models.nn.ragged import Value, tokens_of
from models.run.backend import Built
from models.run.chain import Chain, Sample, bound_to
from models.run.execution import StoppedError, never, run_plans

log = logging.getLogger(__name__)


_MAX_BUILT = 1024  # of which nobody has asked


class _Wanted(NamedTuple):
    key: Hashable
    chain: Chain
    sample: Sample


class _Expecting:
    """Runs chains on torch, step by step, and tells which."""

    is_synchronous = True

    def __init__(
        self, tell: Callable[[Chain, Sequence[Value]], None], place: Callable[[Value], Value]
    ) -> None:
        self._tell = tell
        self.place = place

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        def told(link: Chain, own: Sequence[Value]) -> Value:
            self._tell(link, own)
            return link.run(own)

        if len(chain.steps) > 1:
            self._tell(chain, inputs)
        return chain.run_each(inputs, told)


class OnnxBackend(TorchBackend):
    """Runs chains of steps: by session where that is faster, by torch where it is not.

    Sessions are kept until they hold more than a bound. Then those not used for longest go, and
    must be called for as often as at first to come back.
    """

    levels = frozenset({"refused", "slower", "waiting", "sessions", "bytes"})

    def __init__(
        self,
        device: str = "cpu",
        *,
        max_bytes: int,
        threads: int = 1,
        policy: SessionPolicy | None = None,
        pack: bool = False,
        exporter: Exporter | None = None,
        graphs: Path | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        """Make a back end without sessions.

        Args:
            device: ``cpu``, ``cuda`` or ``cuda:N``.
            max_bytes: What the sessions may hold together, beside the weights they share.
            threads: Of the one pool of all sessions in this process.
            policy: When to build sessions.
            pack: Whether each session rearranges its weights for the processor: a fifth faster for
                one short text, no faster for a full batch, but a copy of the weights for each.
            exporter: Closed with the back end; None for a process that starts when it is needed.
            graphs: Folder of graphs exported before; None to export all anew.
            clock: Seconds, by which sessions are timed.

        Raises:
            ValueError: If this ONNX Runtime cannot use the device, or has other threads already.
        """
        super().__init__(device)
        provider = f"{self.device.type.upper()}ExecutionProvider"
        if provider not in (available := ort.get_available_providers()):
            raise ValueError(f"device={device!r} needs {provider}; this runtime has {available}")
        share_pools(threads)
        self._layouts = LayoutTensors()
        self._records = Records(max_bytes, policy or SessionPolicy())
        self._exporter = exporter or ExportProcess()
        self._kept = KeptGraphs(graphs)
        self._builder = Builder(self.device, pack, max_bytes, clock, self.wait)
        self._wanted: dict[Hashable, _Wanted] = {}
        self._turns: SimpleQueue[bool] = SimpleQueue()  # one for each wanted; False: the last
        self._built: deque[Built] = deque(maxlen=_MAX_BUILT)
        self._num_built = 0  # ever
        self._looked: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        self._thread_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """What receipts call this back end, for example ``onnx-cpu``."""
        return f"onnx-{self.device.type}"

    @property
    def baseline(self) -> TorchBackend:
        """Torch: who measures every step of a model wants no session of each."""
        return TorchBackend(str(self.device))

    @property
    def stats(self) -> SessionStats:
        """Counters and levels at this moment."""
        return self._records.stats

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps; see `models.run.backend.Backend.run_chain`.

        A session of several steps asks ``stop`` once, before it starts.
        """
        return self._run(chain, inputs, stop, self._called)

    @torch.inference_mode()
    def warm(self, chain: Chain, inputs: Sequence[Value]) -> None:
        """Build the sessions of a chain and of its steps now; `stats` tells what came of it.

        Args:
            chain: As for `run_chain`.
            inputs: As for `run_chain`, any small batch.
        """

        def warmed(link: Chain, own: Sequence[Value]) -> Value:
            self.warm(link, own)
            return link.run(own)

        if len(chain.steps) > 1:
            chain.run_each(inputs, warmed)
        key = chain.key(inputs)
        if self._records.want(key):
            self._build(_Wanted(key, chain, Sample(inputs)))

    def expect(self, plan: Plan, inputs: Mapping[str, Value], build: bool = True) -> None:
        """Have sessions of a plan's chains built, as if they had been called often; keep them."""
        whole: set[Step] = set()

        def tell(chain: Chain, given: Sequence[Value]) -> None:
            key = chain.key(given)
            self._records.expect(key)
            # The steps of a chain that has a session get theirs when they are called alone.
            if build and not whole.issuperset(chain.steps) and self._records.want(key):
                self._put(_Wanted(key, chain, Sample(given)))
            whole.update(chain.steps)

        run_plans(_Expecting(tell, self.place), [plan], inputs)

    def take_built(self, model: nn.Module) -> list[Built]:
        """Return the chains of a model that have got sessions, and the times of these."""
        before, self._looked[model] = self._looked.get(model, 0), self._num_built
        # To look takes as long as a small batch.
        return self._take_built(bound_to(model)) if self._looked[model] > before else []

    def _take_built(self, is_own: Callable[[object], bool]) -> list[Built]:
        found: list[Built] = []
        for _ in range(len(self._built)):
            built = self._built.popleft()
            is_its = any(is_own(step.run) for step in built.steps)
            (found if is_its else self._built).append(built)
        return found

    def forget(self, model: nn.Module, beside: nn.Module | None = None) -> None:
        """Give up all that is kept for a model; it would keep the weights alive."""
        is_own = bound_to(model, beside)
        self._records.forget(is_own)
        with self._thread_lock:
            self._wanted = {k: one for k, one in self._wanted.items() if not is_own(k)}
        self._take_built(is_own)

    def close(self) -> None:
        """End the thread and the exporter; the session that is being built is dropped."""
        self._records.close()
        with self._thread_lock:
            self._closed = True
            self._wanted.clear()
        self._exporter.close()
        if self._thread is not None:
            self._turns.put(False)
            self._thread.join()

    def _run(
        self,
        chain: Chain,
        inputs: Sequence[Value],
        stop: Callable[[], bool],
        find: Callable[[Chain, Sequence[Value]], Session | None],
    ) -> Value:
        session = find(chain, inputs)
        if session is None and len(chain.steps) > 1:
            return chain.run_each(inputs, lambda link, own: self._run(link, own, stop, find))
        if stop():
            raise StoppedError
        return session.run(inputs, self._layouts) if session else chain.run(inputs)

    def _held(self, chain: Chain, inputs: Sequence[Value]) -> Session | None:
        """Return the session that runs a chain at present."""
        return self._records.session(chain.key(inputs), size_of(inputs))

    def _called(self, chain: Chain, inputs: Sequence[Value]) -> Session | None:
        """Return the same, and see to it that there will be a session if it is worth it."""
        key = chain.key(inputs)
        session, is_wanted = self._records.call(key, size_of(inputs), len(chain.steps) == 1)
        if is_wanted:
            self._put(_Wanted(key, chain, Sample(inputs)))
        return session

    def _put(self, wanted: _Wanted) -> None:
        """Have the thread build a session."""
        with self._thread_lock:
            self._wanted[wanted.key] = wanted
            self._turns.put(True)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="onnx", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while self._turns.get():
            if (wanted := self._next()) is not None:
                self._build(wanted)
            del wanted  # or it would keep its model alive until the next one comes

    def _next(self) -> _Wanted | None:
        """Take what is asked for most; None if it is not wanted any more."""
        with self._thread_lock:
            if not self._wanted:
                return None
            return self._wanted.pop(self._records.most_called(self._wanted))

    def _build(self, wanted: _Wanted) -> None:
        key, chain, sample = wanted
        if not self._records.is_waiting(key):
            return
        held: Held | None = None
        graphs = Graphs(self._records.graph, self._kept, self._exporter)

        def without(inputs: Sequence[Value]) -> Value:
            # The chain has no session yet, so this runs its steps, each by its own or by torch.
            return self._run(chain, inputs, never, self._held)

        try:
            try:
                held = self._builder.build(chain, sample, graphs.of, without)
            except Exception as error:
                if isinstance(error, TooLargeError) or not graphs.are_suspect:
                    raise
                # What another start, or another function of the same kind, left may not fit.
                graphs = Graphs(None, self._kept, self._exporter)
                held = self._builder.build(chain, sample, graphs.of, without)
        except Exception as error:  # noqa: BLE001 - exporter and runtime raise whatever they like
            if not self._closed:
                keys = [step.key for step in chain.steps]
                log.warning("torch keeps %s: %s", keys, str(error)[:500])
        if self._records.enter(key, held, graphs.made) and held is not None:
            for rows, size in zip(SIZES, held.sizes, strict=True):
                if size.is_faster and size.seconds is not None:
                    num_tokens = tokens_of(sample.batch(lengths(rows)))
                    self._built.append(Built(chain.steps, rows, num_tokens, size.seconds))
                    self._num_built += 1
