"""Sessions are used where they are faster, and dropped with their model; of hand-made graphs."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.export import Exported, Exporter
from models.backends.onnx.records import SessionPolicy
from models.backends.timing import Clock
from models.core import Step
from models.nn.ragged import Value
from models.run.chain import Run
from tests.models.backends.linear import (
    WIDTH,
    ByHand,
    linear_chain,
    run,
    session_wins,
    ticking,
    wait_for_builds,
    warm,
)

WINS, LOSES = [0.001, 0.002] * 7, [0.002, 0.001] * 7  # one size each


def make(clock: Clock, exporter: Exporter | None = None) -> OnnxBackend:
    return OnnxBackend(
        max_bytes=10**8, policy=SessionPolicy(1, 1), exporter=exporter or ByHand(), clock=clock
    )


def test_a_session_runs_the_sizes_for_which_it_is_faster() -> None:
    backend = make(ticking(*WINS, *WINS, *LOSES))
    step = linear_chain(1)
    warm(backend, step)
    for rows in (1, 8, 15):
        run(backend, step, rows)
    assert (backend.stats.hits, backend.stats.misses) == (3, 0)
    for rows in (16, 100):
        run(backend, step, rows)
    assert (backend.stats.hits, backend.stats.misses) == (3, 2)
    assert (backend.stats.waiting, backend.stats.builds, backend.stats.slower) == (0, 1, 0)
    backend.close()


def test_a_session_that_is_never_faster_is_given_up_and_not_built_again() -> None:
    backend = make(ticking(*LOSES))
    step = linear_chain(1)
    for _ in range(2):
        warm(backend, step)
        run(backend, step)
    stats = backend.stats
    assert (stats.slower, stats.refused, stats.builds, stats.sessions, stats.bytes) == (
        1,
        0,
        0,
        0,
        0,
    )
    assert (stats.hits, stats.misses, stats.waiting) == (0, 2, 0)
    backend.close()


def test_a_chain_is_compared_with_the_sessions_of_its_steps() -> None:
    calls: list[Tensor] = []

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(weight)
        return F.linear(x, weight)

    def calls_to_fuse(clock: Clock) -> int:
        backend = make(clock)
        runs = [partial(counted, weight=torch.randn(WIDTH, WIDTH)) for _ in range(2)]
        first = Step("a", runs[0], ("x",))
        second = Step("b", runs[1], (first,))
        for step in (first, second):
            warm(backend, [step])
        calls.clear()
        warm(backend, [first, second])
        assert backend.stats.sessions + backend.stats.slower == 3
        backend.close()
        return len(calls)

    # Called for the example and the checks alone; and for those and 7 times for each size.
    by_sessions, by_torch = calls_to_fuse(session_wins()), calls_to_fuse(ticking(*LOSES))
    assert by_torch == by_sessions + 2 * 7 * 3


def test_a_fused_session_that_is_slower_leaves_the_steps_theirs() -> None:
    backend = make(ticking(*WINS * 3, *WINS * 3, *LOSES * 3))
    steps = linear_chain(2)
    warm(backend, steps)
    assert (backend.stats.sessions, backend.stats.slower) == (2, 1)
    run(backend, steps)
    assert (backend.stats.hits, backend.stats.misses) == (2, 0)
    backend.close()


class Layers(nn.Module):
    """A model whose plan calls its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.requires_grad_(False)

    def run_layer(self, number: int, x: Tensor) -> Tensor:
        return self.layers[number](x)  # type: ignore[no-any-return]

    def twice(self, x: Tensor) -> Tensor:
        return 2 * x

    def steps(self) -> list[Step]:
        runs: tuple[Run, ...] = (partial(self.run_layer, 0), self.layers[1])
        first = Step(0, runs[0], ("x",))
        return [first, Step(1, runs[1], (first,))]


class ByHandOfLayers(ByHand):
    def export(self, run: Any, args: Sequence[Value]) -> Exported:
        if isinstance(run, partial):
            model: Any = run.func
            run = model.__self__.layers[run.args[0]]
        return super().export(partial(F.linear, weight=run.weight), args)


@pytest.mark.parametrize("durations", [WINS, LOSES])
def test_a_forgotten_model_leaves_nothing_behind_and_others_keep_theirs(
    durations: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)  # what is logged is kept for the test's report
    backend = make(ticking(*durations), ByHandOfLayers())
    model, other = Layers(), Layers()
    for one in (model, other):
        warm(backend, one.steps())
        warm(backend, [Step("", one.twice, ("x",))])  # has no graph
    stats = backend.stats
    assert (stats.sessions + stats.slower, stats.refused) == (6, 2)
    weight = weakref.ref(model.layers[0].weight)
    backend.forget(model)
    del model, one
    gc.collect()
    assert weight() is None
    assert backend.stats.sessions * 2 == stats.sessions
    assert backend.stats.slower * 2 == stats.slower
    assert backend.stats.bytes * 2 == stats.bytes
    assert backend.stats.refused == 1
    run(backend, other.steps())
    assert (backend.stats.hits > 0) == (durations is WINS)
    backend.close()


def test_a_model_can_be_forgotten_while_its_sessions_are_built() -> None:
    has_begun, may_finish = threading.Event(), threading.Event()

    class Slow(ByHandOfLayers):
        def export(self, run: Any, args: Sequence[Value]) -> Exported:
            has_begun.set()
            assert may_finish.wait(10)
            return super().export(run, args)

    backend = make(session_wins(), Slow())
    model, other = Layers(), Layers()
    run(backend, model.steps())
    assert has_begun.wait(10)
    backend.forget(model)
    assert backend.stats.waiting == 0
    weight = weakref.ref(model.layers[0].weight)
    del model
    run(backend, other.steps()[:1])
    may_finish.set()
    wait_for_builds(backend, 1)
    gc.collect()
    assert weight() is None
    assert (backend.stats.sessions, backend.stats.refused) == (1, 0)
    backend.close()
