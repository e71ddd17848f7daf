"""Torch on CUDA with hot chains recorded: one launch replays a chain instead of one per kernel.

A small model at a small batch waits for launches, not for arithmetic. A CUDA graph is of fixed
shapes and addresses, so batches are filled up to the next of a few sizes and copied in and out.
Text is recorded where all rows of a batch have one length, as a lone row has; a batch of several
lengths is launched kernel by kernel, and is large enough not to mind.

A chain that stays hot is compiled by a thread meanwhile, and recorded anew if that is right and
faster.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from models.backends.cuda.batches import (
    content_of,
    filled,
    fixed_of,
    rows_for,
    source_of,
    taken,
)
from models.backends.cuda.recording import CudaRecorder, Recorder
from models.backends.torch import TorchBackend
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain, bound_to
from models.run.execution import StoppedError, never

log = logging.getLogger(__name__)

_MAX_KEYS = 4096  # of chains whose calls are counted
_MAX_COMPILING = 16
_REPEATS = 5
_TOLERANCE = 1e-3  # compiled kernels add in another order

Function: TypeAlias = Callable[[Sequence[Value]], Value]
Compiler: TypeAlias = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


def _compile(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(run, dynamic=False)


@dataclass(frozen=True)
class RecordingPolicy:
    """When a chain of one size of batch is worth the trouble.

    Attributes:
        record_after: Calls before it is recorded.
        compile_after: Calls before it is compiled; None: never.
        max_recorded: Most recordings kept; those unused for longest go first.
    """

    record_after: int = 3
    compile_after: int | None = 200
    max_recorded: int = 128


class RecordingStats(NamedTuple):
    """What a back end has done and holds.

    Attributes:
        hits: Chains replayed.
        misses: Chains launched kernel by kernel.
        recordings: Held.
        compiling: Chains that the compiler is asked for.
        gains: Recordings replaced by those of compiled functions.
    """

    hits: int
    misses: int
    recordings: int
    compiling: int
    gains: int


class _Recorded(NamedTuple):
    """A recording, and where it reads and writes.

    Attributes:
        replay: Runs it.
        inputs: What it reads.
        output: What it writes.
        source: Position of an input that is packed as the output is; None: it is not packed.
    """

    replay: Callable[[], None]
    inputs: list[Value]
    output: Value
    source: int | None


class _Hot(NamedTuple):
    key: Hashable
    chain: Chain
    inputs: list[Value]


class GraphBackend(TorchBackend):
    """Runs chains as `TorchBackend` does, hot ones from recordings."""

    levels = frozenset({"recordings", "compiling"})

    def __init__(
        self,
        device: str = "cuda",
        *,
        policy: RecordingPolicy | None = None,
        recorder: Recorder | None = None,
        compiler: Compiler = _compile,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Record nothing yet.

        Args:
            device: ``cuda`` or ``cuda:N``; any with a recorder of its own.
            policy: When to record and compile.
            recorder: None for CUDA graphs.
            compiler: Of functions of plain tensors.
            clock: Seconds, by which recordings are compared.
        """
        super().__init__(device)
        self._policy = policy or RecordingPolicy()
        self._recorder = recorder or CudaRecorder(self.device)
        self._compiler = compiler
        self._clock = clock
        self._lock = threading.Lock()  # for all that follows but the queue
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._compiled: dict[Hashable, Function] = {}  # by the compiler, until recorded
        self._compiling: set[Hashable] = set()
        self._hits = self._misses = self._gains = 0
        self._queue: Queue[_Hot | None] = Queue()  # as long as _compiling
        self._thread: threading.Thread | None = None

    @property
    def stats(self) -> RecordingStats:
        """Counters and levels at this moment."""
        with self._lock:
            return RecordingStats(
                self._hits, self._misses, len(self._recorded), len(self._compiling), self._gains
            )

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run steps; see `models.run.backend.Backend.run_chain`.

        A recording of several steps asks ``stop`` once, before it starts.
        """
        with self._lock:
            recorded = self._called(chain, inputs)
            self._hits += recorded is not None
            self._misses += recorded is None
        if recorded is None:
            return super().run_chain(chain, inputs, stop)
        if stop():
            raise StoppedError
        for own, value in zip(recorded.inputs, inputs, strict=True):
            content_of(own)[: len(content_of(value))].copy_(content_of(value))
        recorded.replay()
        found = taken(content_of(recorded.output), recorded.source, inputs)
        # Copied, as the next replay writes over it.
        return found.replace(found.values.clone()) if isinstance(found, Ragged) else found.clone()

    def forget(self, model: nn.Module, beside: nn.Module | None = None) -> None:
        """Give up the recordings of a model; they would keep its weights alive."""
        is_unwanted = bound_to(model, beside)
        with self._lock:
            for entries in (self._calls, self._recorded, self._compiled):
                for key in filter(is_unwanted, list(entries)):
                    del entries[key]
            self._compiling = {key for key in self._compiling if not is_unwanted(key)}

    def close(self) -> None:
        """End the compiling thread, once it has finished what it is at."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _called(self, chain: Chain, inputs: Sequence[Value]) -> _Recorded | None:
        """Count a call; return the recording for it, made now if it is time."""
        rows = rows_for(inputs)
        if rows is None:
            return None
        key = (chain.key(inputs), rows, tuple(map(fixed_of, inputs)))
        calls = self._calls.pop(key, 0) + 1
        self._calls[key] = calls
        if len(self._calls) > _MAX_KEYS:
            self._calls.popitem(last=False)
        if calls == self._policy.record_after:
            self._keep(key, self._record(chain.run, filled(inputs, rows)))
        elif calls == self._policy.compile_after and key in self._recorded:
            self._compile(_Hot(key, chain, filled(inputs, rows)))
        elif key in self._compiled:
            self._choose(key, self._compiled.pop(key))
        if key in self._recorded:
            self._recorded.move_to_end(key)
        return self._recorded.get(key)

    def _record(self, function: Function, inputs: list[Value]) -> _Recorded | None:
        """Return a recording; None if there can be none, for then torch runs the chain."""
        try:
            replay, output = self._recorder.record(lambda: function(inputs))
            return _Recorded(replay, inputs, output, source_of(output, inputs))
        except RuntimeError as error:
            log.warning("not recorded: %s", str(error)[:500])
            return None

    def _keep(self, key: Hashable, recorded: _Recorded | None) -> None:
        if recorded is None:
            return
        self._recorded[key] = recorded
        while len(self._recorded) > self._policy.max_recorded:
            given_up, _ = self._recorded.popitem(last=False)
            self._calls.pop(given_up, None)  # to come back it must be called for as often again

    def _compile(self, hot: _Hot) -> None:
        if len(self._compiling) >= _MAX_COMPILING:
            return
        self._compiling.add(hot.key)
        self._queue.put(hot)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="compiler", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (hot := self._queue.get()) is not None:
            try:
                function: Function | None = self._built(hot)
            except Exception as error:  # noqa: BLE001 - compilers raise whatever they like
                log.warning("not compiled: %s", str(error)[:500])
                function = None
            with self._lock:
                if hot.key in self._compiling and function is not None:
                    self._compiled[hot.key] = function
                self._compiling.discard(hot.key)
            del hot, function  # or they keep a model alive until the next one comes

    @torch.inference_mode()
    def _built(self, hot: _Hot) -> Function:
        """Compile a chain and compare what it gives; an exception if it cannot be used."""
        layouts = [value.layout if isinstance(value, Ragged) else None for value in hot.inputs]
        expected = hot.chain.run(hot.inputs)
        source = source_of(expected, hot.inputs)

        def plain(*tensors: Tensor) -> Tensor:
            values = [
                tensor if layout is None else Ragged(tensor, layout)
                for tensor, layout in zip(tensors, layouts, strict=True)
            ]
            return content_of(hot.chain.run(values))

        # Of code of its own: the compiler gives up code that it has compiled eight times.
        plain.__code__ = plain.__code__.replace()
        compiled = self._compiler(plain)

        def function(values: Sequence[Value]) -> Value:
            return taken(compiled(*map(content_of, values)), source, values)

        torch.testing.assert_close(
            content_of(function(hot.inputs)), content_of(expected), atol=_TOLERANCE, rtol=_TOLERANCE
        )
        return function

    def _choose(self, key: Hashable, function: Function) -> None:
        """Keep what is faster of the recording as it is and one of the compiled function."""
        before = self._recorded.get(key)
        after = None if before is None else self._record(function, before.inputs)
        if before is None or after is None:
            return
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(_REPEATS):
            for one, durations in zip((before, after), times, strict=True):
                start = self._clock()
                one.replay()
                self.wait()
                durations.append(self._clock() - start)
        if min(times[1]) < min(times[0]):
            self._keep(key, after)
            self._gains += 1
