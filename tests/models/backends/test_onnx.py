"""When sessions are built, kept and left alone; of hand-made graphs, which are ready at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from onnx import GraphProto, TensorProto, helper
from torch import Tensor

from models.backends import onnx
from models.backends.export import OUTPUT, Graph
from models.backends.onnx import OnnxBackend, Policy
from models.core import Cost, Step
from models.execution import StoppedError
from models.ragged import Ragged

WIDTH = 64
SESSION_BYTES = 300_000 + 4 * WIDTH * WIDTH


def linear_step(name: str, after: Step | None = None) -> Step:
    weight = torch.randn(WIDTH, WIDTH) / WIDTH**0.5
    return Step(name, partial(F.linear, weight=weight), Cost(), after, ("x",), "x")


def linear_chain(length: int) -> list[Step]:
    steps: list[Step] = []
    for number in range(length):
        steps.append(linear_step(f"step{number}", steps[-1] if steps else None))
    return steps


def linear_graph(run: Any, args: Sequence[Tensor | Ragged]) -> Graph:
    shape = (None, WIDTH)
    proto = GraphProto(
        name="linear",
        node=[helper.make_node("Gemm", ["input0", "weight"], [OUTPUT], transB=1)],
        input=[helper.make_tensor_value_info("input0", TensorProto.FLOAT, shape)],
        output=[helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
    )
    return Graph(proto, {"weight": run.keywords["weight"]}, {}, is_packed=False)


def by_torch(steps: Sequence[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step.run(x)
    return x


@pytest.fixture(autouse=True)
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "export", linear_graph)


@pytest.fixture
def backend() -> Iterator[OnnxBackend]:
    backend = OnnxBackend(max_bytes=10**8, policy=Policy(step_after=2, fuse_after=3))
    yield backend
    backend.close()


def run(backend: OnnxBackend, steps: Sequence[Step], rows: int = 5) -> None:
    x = torch.randn(rows, WIDTH)
    found = backend.run_chain(steps, {"x": x})
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, by_torch(steps, x), atol=1e-4, rtol=0)


def test_steps_and_chains_run_by_session_once_warm(backend: OnnxBackend) -> None:
    steps = linear_chain(3)
    backend.warm(steps, {"x": torch.randn(1, WIDTH)})
    assert backend.stats._replace(bytes=0) == (0, 0, 4, 0, 0, 0, 4, 0)
    run(backend, steps)
    assert (backend.stats.hits, backend.stats.misses) == (1, 0)
    run(backend, steps[:2])  # a chain that was not warmed, of steps that were
    run(backend, steps[1:2])
    assert (backend.stats.hits, backend.stats.misses) == (4, 0)


def test_torch_runs_a_step_until_its_session_is_there(
    backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_finish = threading.Event()

    def slow_export(run: Any, args: Sequence[Tensor | Ragged]) -> Graph:
        assert may_finish.wait(10)
        return linear_graph(run, args)

    monkeypatch.setattr(onnx, "export", slow_export)
    step = linear_chain(1)
    run(backend, step)
    assert backend.stats.waiting == 0  # one call is not worth it
    run(backend, step)
    run(backend, step)
    assert (backend.stats.waiting, backend.stats.hits, backend.stats.misses) == (1, 0, 3)
    may_finish.set()
    backend.close()  # finishes the session it is at
    run(backend, step)
    assert (backend.stats.waiting, backend.stats.hits, backend.stats.builds) == (0, 1, 1)


def test_a_chain_gets_one_session_when_it_is_called_often(backend: OnnxBackend) -> None:
    steps = linear_chain(2)
    backend.warm(steps[:1], {"x": torch.randn(1, WIDTH)})
    backend.warm(steps[1:], {"x": torch.randn(1, WIDTH)})
    run(backend, steps)
    run(backend, steps)
    assert (backend.stats.waiting, backend.stats.builds, backend.stats.hits) == (0, 2, 4)
    run(backend, steps)
    wait_for_builds(backend, 3)
    run(backend, steps)
    assert backend.stats.hits == 7


def wait_for_builds(backend: OnnxBackend, builds: int) -> None:
    """Spin until the thread has built so many."""
    pause = threading.Event()
    for _ in range(1000):
        if backend.stats.builds >= builds:
            return
        pause.wait(0.01)
    raise AssertionError(f"{backend.stats}")


def test_close_ends_the_thread_and_stops_building() -> None:
    before = threading.active_count()
    backend = OnnxBackend(max_bytes=10**8, policy=Policy(step_after=1))
    steps = linear_chain(4)
    run(backend, steps)
    assert threading.active_count() == before + 1
    backend.close()
    backend.close()
    assert threading.active_count() == before
    assert backend.stats.waiting == 0
    late = linear_chain(1)
    run(backend, late)
    run(backend, late)
    assert (threading.active_count(), backend.stats.waiting) == (before, 0)


def test_sessions_stay_within_their_bytes_and_the_unused_go_first() -> None:
    backend = OnnxBackend(max_bytes=2 * SESSION_BYTES + 1)
    first, second, third = ([linear_step(name)] for name in "abc")
    for step in (first, second):
        backend.warm(step, {"x": torch.randn(1, WIDTH)})
    assert backend.stats.bytes == 2 * SESSION_BYTES
    run(backend, first)
    backend.warm(third, {"x": torch.randn(1, WIDTH)})
    stats = backend.stats
    assert (stats.sessions, stats.bytes, stats.evictions) == (2, 2 * SESSION_BYTES, 1)
    for step in (first, second, third):
        run(backend, step)
    assert (backend.stats.hits, backend.stats.misses) == (3, 1)
    backend.close()


@pytest.mark.parametrize("pack", [True, False])
def test_a_session_counts_what_it_does_not_share(pack: bool) -> None:
    backend = OnnxBackend(max_bytes=10**8, pack=pack)
    step = linear_chain(1)
    backend.warm(step, {"x": torch.randn(1, WIDTH)})
    assert backend.stats.bytes == (SESSION_BYTES if pack else 300_000)
    run(backend, step)


def test_a_session_reads_the_parameter_itself() -> None:
    backend = OnnxBackend(max_bytes=10**8, pack=False)
    weight = torch.randn(2 * WIDTH, WIDTH)
    rows = partial(F.linear, weight=weight[:WIDTH])
    step = Step("rows", rows, Cost(), None, ("x",), "x")
    backend.warm([step], {"x": torch.randn(1, WIDTH)})
    weight.mul_(2)
    run(backend, [step])
    assert backend.stats.hits == 1


def test_a_session_too_large_for_the_bound_is_refused() -> None:
    backend = OnnxBackend(max_bytes=SESSION_BYTES - 1)
    step = linear_chain(1)
    backend.warm(step, {"x": torch.randn(1, WIDTH)})
    assert (backend.stats.refused, backend.stats.sessions) == (1, 0)
    run(backend, step)


def test_a_session_with_other_results_than_torch_is_refused(
    backend: OnnxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(run: Any, args: Sequence[Tensor | Ragged]) -> Graph:
        graph = linear_graph(run, args)
        return Graph(graph.proto, {"weight": run.keywords["weight"] + 1e-3}, {}, is_packed=False)

    monkeypatch.setattr(onnx, "export", wrong)
    step = linear_chain(1)
    for _ in range(2):
        backend.warm(step, {"x": torch.randn(3, WIDTH)})
        run(backend, step)
    assert (backend.stats.refused, backend.stats.sessions, backend.stats.hits) == (1, 0, 0)
    assert backend.stats.misses == 2


def test_equal_functions_of_two_plans_share_a_session_and_others_do_not(
    backend: OnnxBackend,
) -> None:
    step, other = linear_step("a"), linear_step("a")
    again = Step("b", partial(F.linear, **step.run.keywords), Cost(), None, ("y",), "z")  # type: ignore[attr-defined]
    backend.warm([step], {"x": torch.randn(1, WIDTH)})
    backend.run_chain([again], {"y": torch.randn(2, WIDTH)})
    assert (backend.stats.hits, backend.stats.misses) == (1, 0)
    run(backend, [other])
    assert (backend.stats.hits, backend.stats.misses) == (1, 1)


def test_a_value_nobody_emitted_is_an_error(backend: OnnxBackend) -> None:
    with pytest.raises(KeyError, match="x"):
        backend.run_chain(linear_chain(2), {"y": torch.ones(1)})


def test_a_run_is_left_between_two_steps_or_before_a_session(backend: OnnxBackend) -> None:
    steps, x = linear_chain(3), torch.randn(1, WIDTH)
    answers = iter([False, True])
    with pytest.raises(StoppedError):
        backend.run_chain(steps, {"x": x}, lambda: next(answers))
    backend.warm(steps, {"x": x})
    with pytest.raises(StoppedError):
        backend.run_chain(steps, {"x": x}, lambda: True)


def test_all_sessions_share_one_pool_of_threads(backend: OnnxBackend) -> None:
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    for _ in range(5):
        step = linear_chain(1)
        backend.warm(step, {"x": torch.randn(1, WIDTH)})
        run(backend, step, rows=500)
    assert backend.stats.sessions == 5
    assert len(list(tasks.iterdir())) == before
    with pytest.raises(ValueError, match="has a pool of 1 already"):
        OnnxBackend(max_bytes=1, threads=2)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="needs MPSExecutionProvider"):
        OnnxBackend("mps", max_bytes=1)


def test_names_say_where_it_runs(backend: OnnxBackend) -> None:
    assert backend.name == "onnx-cpu"
