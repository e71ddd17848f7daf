"""Make a session of a chain: export its functions, join them, check the answers, take the time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from models.backends.onnx.export import Exported, Exporter
from models.backends.onnx.joining import join
from models.backends.onnx.kept import KeptGraphs
from models.backends.onnx.layouts import LayoutTensors
from models.backends.onnx.sessions import Held, Session
from models.backends.timing import Clock, compared
from models.nn.ragged import Ragged, Value
from models.run.agreement import check_agreement
from models.run.chain import Chain, Run, Sample, function_key

_EXAMPLE = (3, 5, 4)  # lengths of the rows that a function is traced with
_CHECKS = ((4, 1, 6, 2), (1,), (3, 3))  # of batches on which a session must be right


class TooLargeError(ValueError):
    """A session would hold more than it may, whatever its graph."""


class Graphs:
    """The graphs of one session: from memory or disk, else exported and kept.

    Attributes:
        made: All of them, by `models.run.chain.function_key`.
    """

    def __init__(
        self,
        known: Callable[[Hashable], Exported | None] | None,
        kept: KeptGraphs,
        exporter: Exporter,
    ) -> None:
        """Begin with none.

        Args:
            known: Graphs in memory; None to look neither there nor on disk.
            kept: Those on disk.
            exporter: Makes the others.
        """
        self._known, self._kept, self._exporter = known, kept, exporter
        self.made: dict[Hashable, Exported] = {}
        self._num_old, self._is_whole = 0, True

    @property
    def are_suspect(self) -> bool:
        """Whether graphs made anew might do where these did not."""
        return self._num_old > 0 and self._is_whole

    def of(self, run: Run, args: Sequence[Value]) -> Exported:
        """Return a function's graph.

        Args:
            run: As for `models.backends.onnx.export.export`.
            args: Likewise.

        Raises:
            Exception: Of any type, if it cannot be exported.
        """
        key = function_key(run, args)
        if key in self.made:
            return self.made[key]
        found = None if self._known is None else self._known(key) or self._kept.find(run, args)
        self._num_old += found is not None
        if found is None:
            self._is_whole = False  # unless it can be exported
            found = self._exporter.export(run, args)
            self._is_whole = True
            self._kept.put(run, args, found, is_own=self._known is None)
        self.made[key] = found
        return found


@dataclass(frozen=True)
class Builder:
    """Makes sessions for one device.

    Attributes:
        device: Where they run.
        pack: As for `Session`.
        max_bytes: That one may hold.
        clock: For `compared`.
        wait: Returns once the device is idle.
    """

    device: torch.device
    pack: bool
    max_bytes: int
    clock: Clock
    wait: Callable[[], None]

    def build(
        self,
        chain: Chain,
        sample: Sample,
        graph_of: Callable[[Run, Sequence[Value]], Exported],
        without: Callable[[Sequence[Value]], Value],
    ) -> Held:
        """Build a session, compare its answers with torch's and its time with what runs now.

        Args:
            chain: What it is to compute.
            sample: Of the chain's inputs.
            graph_of: Exports a function, given example arguments.
            without: Runs the chain as it is run without the session.

        Raises:
            Exception: Of any type, if there can be no session for this chain.
        """
        # Tracing is not made for inference mode, which `OnnxBackend.warm` may be called in.
        with torch.inference_mode(False), torch.no_grad():
            session = Session(_join(chain, sample, graph_of), self.device, self.pack)
            if session.num_bytes > self.max_bytes:
                raise TooLargeError(
                    f"its session takes {session.num_bytes} of {self.max_bytes} bytes"
                )
            for lengths in _CHECKS:
                inputs = sample.batch(lengths)
                results = (session.run(inputs, LayoutTensors()), chain.run(inputs))
                found, expected = (r.values if isinstance(r, Ragged) else r for r in results)
                check_agreement(found, expected, chain.tolerance)
        layouts = LayoutTensors()
        with torch.inference_mode():
            sizes = compared(
                self._to_the_end(lambda inputs: session.run(inputs, layouts)),
                self._to_the_end(without),
                sample.batch,
                self.clock,
            )
        return Held(session, sizes)

    def _to_the_end(
        self, run: Callable[[Sequence[Value]], Value]
    ) -> Callable[[Sequence[Value]], None]:
        def finish(inputs: Sequence[Value]) -> None:
            run(inputs)
            self.wait()

        return finish


def _join(
    chain: Chain, sample: Sample, graph_of: Callable[[Run, Sequence[Value]], Exported]
) -> Exported:
    """Return the chain's functions as one graph."""
    graphs = []

    def call(run: Run, args: Sequence[Value]) -> Value:
        graphs.append(graph_of(run, args))
        return run(*args)  # type: ignore[no-any-return]

    chain.run(sample.batch(_EXAMPLE), call)
    return join(graphs, chain.sources, sample.layouts)
