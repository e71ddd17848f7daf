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

from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.export import OUTPUT, Exported, Exporter
from models.backends.onnx.records import SessionPolicy
from models.core import Plan, Step
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import StoppedError
from tests.models.backends.linear import (
    WIDTH,
    ByHand,
    linear_chain,
    linear_step,
    run,
    session_wins,
    wait_for_builds,
    warm,
)

OWN_BYTES = 650_000
SESSION_BYTES = OWN_BYTES + 4 * WIDTH * WIDTH


def make(
    max_bytes: int = 10**8,
    policy: SessionPolicy | None = None,
    exporter: Exporter | None = None,
    pack: bool = True,
) -> OnnxBackend:
    return OnnxBackend(
        max_bytes=max_bytes,
        policy=policy,
        pack=pack,
        exporter=exporter or ByHand(),
        clock=session_wins(),
    )


@pytest.fixture
def backend() -> Iterator[OnnxBackend]:
    backend = make(policy=SessionPolicy(step_after=2, fuse_after=3))
    yield backend
    backend.close()


def test_steps_and_chains_run_by_session_once_warm(backend: OnnxBackend) -> None:
    steps = linear_chain(3)
    warm(backend, steps)
    assert backend.stats._replace(bytes=0) == (0, 0, 4, 0, 0, 0, 0, 4, 0)
    run(backend, steps)
    assert (backend.stats.hits, backend.stats.misses) == (1, 0)
    run(backend, steps[:2])  # a chain that was not warmed, of steps that were
    run(backend, steps[1:2])
    assert (backend.stats.hits, backend.stats.misses) == (4, 0)


def test_torch_runs_a_step_until_its_session_is_there() -> None:
    may_finish = threading.Event()

    class Slow(ByHand):
        def export(self, run: Any, args: Sequence[Value]) -> Exported:
            assert may_finish.wait(10)
            return super().export(run, args)

    backend = make(exporter=Slow())
    step = linear_chain(1)
    run(backend, step)
    assert backend.stats.waiting == 0  # one call is not worth it
    run(backend, step)
    run(backend, step)
    assert (backend.stats.waiting, backend.stats.hits, backend.stats.misses) == (1, 0, 3)
    may_finish.set()
    wait_for_builds(backend, 1)
    run(backend, step)
    assert (backend.stats.waiting, backend.stats.hits, backend.stats.builds) == (0, 1, 1)
    backend.close()


def test_a_chain_gets_one_session_when_it_is_called_often(backend: OnnxBackend) -> None:
    steps = linear_chain(2)
    warm(backend, steps[:1])
    warm(backend, steps[1:])
    run(backend, steps)
    run(backend, steps)
    assert (backend.stats.waiting, backend.stats.builds, backend.stats.hits) == (0, 2, 4)
    run(backend, steps)
    wait_for_builds(backend, 3)
    run(backend, steps)
    assert backend.stats.hits == 7


def test_what_is_expected_gets_sessions_without_a_call_and_what_is_called_most_comes_first() -> (
    None
):
    may_go_on, order = threading.Semaphore(0), []

    class InOrder(ByHand):
        def export(self, run: Any, args: Sequence[Value]) -> Exported:
            order.append(run)
            assert may_go_on.acquire(timeout=10)
            return super().export(run, args)

    backend = make(exporter=InOrder())
    chains = [linear_chain(2) for _ in range(4)]
    x = torch.randn(1, WIDTH)
    for steps in chains:
        backend.expect(Plan({"task": steps[-1]}), {"x": x})
    while not order:  # the first is being built
        threading.Event().wait(0.001)
    for steps, calls in zip(chains, (0, 1, 0, 2), strict=True):
        for _ in range(calls):
            run(backend, steps)
    may_go_on.release(100)
    wait_for_builds(backend, 4)
    expected = [chains[i] for i in (0, 3, 1, 2)]
    assert order == [step.run for steps in expected for step in steps]
    before = backend.stats.hits
    for steps in chains:
        run(backend, steps)
    assert backend.stats.hits == before + 4
    backend.close()


def test_close_ends_the_thread_and_stops_building() -> None:
    before = threading.active_count()
    backend = make(policy=SessionPolicy(step_after=1))
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
    backend = make(2 * SESSION_BYTES + 1)
    first, second, third = ([linear_step(name)] for name in "abc")
    for step in (first, second):
        warm(backend, step)
    assert backend.stats.bytes == 2 * SESSION_BYTES
    run(backend, first)
    warm(backend, third)
    stats = backend.stats
    assert (stats.sessions, stats.bytes, stats.evictions) == (2, 2 * SESSION_BYTES, 1)
    for step in (first, second, third):
        run(backend, step)
    assert (backend.stats.hits, backend.stats.misses) == (3, 1)
    backend.close()


def test_after_mixed_traffic_sessions_are_those_expected_and_a_few_others() -> None:
    backend = make(policy=SessionPolicy(step_after=2, fuse_after=3, max_others=2))
    x = torch.randn(1, WIDTH)
    ahead, later = linear_chain(2), linear_chain(2)
    others = [[linear_step(name)] for name in "abcdef"]
    backend.expect(Plan({"task": ahead[-1]}), {"x": x})
    wait_for_builds(backend, 1)  # of the whole chain; its steps get theirs when they are called
    backend.expect(Plan({"task": later[-1]}), {"x": x}, build=False)
    assert backend.stats.waiting == 0
    builds = 1
    for step in others:
        for _ in range(2):
            run(backend, step)
        builds += 1
        wait_for_builds(backend, builds)
        assert backend.stats.sessions <= 1 + 2
    for _ in range(3):
        run(backend, later)
    wait_for_builds(backend, builds + 3)
    expected, most = 1 + 3, 2  # one chain; another and each of its steps
    stats = backend.stats
    assert (stats.sessions, stats.evictions) == (expected + most, len(others) - most)
    before = stats.hits
    for steps in (ahead, later, *others[-most:]):
        run(backend, steps)
    assert backend.stats.hits == before + 4
    run(backend, others[0])
    assert backend.stats.hits == before + 4
    backend.close()


@pytest.mark.parametrize("pack", [True, False])
def test_a_session_counts_what_it_does_not_share(pack: bool) -> None:
    backend = make(pack=pack)
    step = linear_chain(1)
    warm(backend, step)
    assert backend.stats.bytes == (SESSION_BYTES if pack else OWN_BYTES)
    run(backend, step)


def test_a_session_reads_the_parameter_itself() -> None:
    backend = make(pack=False)
    weight = torch.randn(2 * WIDTH, WIDTH)
    rows = partial(F.linear, weight=weight[:WIDTH])
    step = Step("rows", rows, ("x",))
    warm(backend, [step])
    weight.mul_(2)
    run(backend, [step])
    assert backend.stats.hits == 1


def test_a_session_too_large_for_the_bound_is_refused() -> None:
    backend = make(SESSION_BYTES - 1)
    step = linear_chain(1)
    warm(backend, step)
    assert (backend.stats.refused, backend.stats.sessions) == (1, 0)
    run(backend, step)


def test_a_session_with_other_results_than_torch_is_refused() -> None:
    class Wrong(ByHand):
        def export(self, run: Any, args: Sequence[Value]) -> Exported:
            graph = super().export(run, args)
            weight = run.keywords["weight"] + 1e-3
            return Exported(graph.proto, {"weight": weight})

    backend = make(exporter=Wrong())
    step = linear_chain(1)
    for _ in range(2):
        warm(backend, step)
        run(backend, step)
    assert (backend.stats.refused, backend.stats.sessions, backend.stats.hits) == (1, 0, 0)
    assert backend.stats.misses == 2


def test_equal_functions_of_two_plans_share_a_session_and_others_do_not(
    backend: OnnxBackend,
) -> None:
    step, other = linear_step("a"), linear_step("a")
    again = Step("b", partial(F.linear, **step.run.keywords), ("y",))  # type: ignore[attr-defined]
    warm(backend, [step])
    backend.run_chain(Chain([again]), [torch.randn(2, WIDTH)])
    assert (backend.stats.hits, backend.stats.misses) == (1, 0)
    run(backend, [other])
    assert (backend.stats.hits, backend.stats.misses) == (1, 1)


def test_an_input_that_is_not_there_is_an_error(backend: OnnxBackend) -> None:
    plan = Plan({"task": linear_step("a")})
    with pytest.raises(KeyError, match="x"):
        backend.run(plan, {"y": torch.ones(1, WIDTH)})


def test_a_run_is_left_between_two_steps_or_before_a_session(backend: OnnxBackend) -> None:
    chain, x = Chain(linear_chain(3)), torch.randn(1, WIDTH)
    answers = iter([False, True])
    with pytest.raises(StoppedError):
        backend.run_chain(chain, [x], lambda: next(answers))
    backend.warm(chain, [x])
    with pytest.raises(StoppedError):
        backend.run_chain(chain, [x], lambda: True)


class Sums(ByHand):
    """Exports weighted sums of two rows."""

    def export(self, run: Any, args: Sequence[Value]) -> Exported:
        if len(args) == 1:
            return super().export(run, args)
        names = ["input0", "input1"]
        rows = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, (None, WIDTH)) for name in names
        ]
        out = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (None, WIDTH))
        nodes = [
            helper.make_node("Mul", ["input0", "weight"], ["scaled"]),
            helper.make_node("Add", ["scaled", "input1"], [OUTPUT]),
        ]
        proto = GraphProto(name="sum", node=nodes, input=rows, output=[out])
        return Exported(proto, {"weight": run.keywords["weight"]})


def weighted_sum(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return x * weight + y


def step_of_sum(name: str, *takes: Step | str) -> Step:
    return Step(name, partial(weighted_sum, weight=torch.randn(WIDTH)), takes)


@pytest.mark.parametrize("is_warm", [True, False])
def test_each_step_of_a_chain_gets_its_own_operands_with_and_without_sessions(
    is_warm: bool,
) -> None:
    backend = make(exporter=Sums())
    first = linear_step("first")
    second = step_of_sum("second", "y", first)
    third = step_of_sum("third", second, "x")
    last = step_of_sum("last", third, third)  # one value twice
    chain = Chain([first, second, third, last])
    assert chain.externals == ("x", "y")
    x = torch.randn(4, WIDTH)
    y = torch.randn(1, WIDTH).expand(4, WIDTH)  # as one row that four items share reaches a chain
    if is_warm:
        backend.warm(chain, [x, y])
    found = backend.run_chain(chain, [x, y])
    values = [first.run(x)]
    values.append(second.run(y, values[0]))
    values.append(third.run(values[1], x))
    torch.testing.assert_close(found, last.run(values[2], values[2]), atol=1e-4, rtol=0)
    hits, misses = (1, 0) if is_warm else (0, 4)
    assert (backend.stats.hits, backend.stats.misses, backend.stats.refused) == (hits, misses, 0)
    link_hits = backend.stats.hits
    backend.run_chain(Chain([second, third]), [y, values[0], x])
    assert backend.stats.hits == link_hits + (2 if is_warm else 0)
    backend.close()


def test_all_sessions_share_one_pool_of_threads(backend: OnnxBackend) -> None:
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    for _ in range(5):
        step = linear_chain(1)
        warm(backend, step)
        run(backend, step, rows=500)
    assert backend.stats.sessions == 5
    assert len(list(tasks.iterdir())) <= before  # threads of other tests may end meanwhile
    with pytest.raises(ValueError, match="has a pool of 1 already"):
        OnnxBackend(max_bytes=1, threads=2)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="needs MPSExecutionProvider"):
        OnnxBackend("mps", max_bytes=1)


def test_names_say_where_it_runs(backend: OnnxBackend) -> None:
    assert backend.name == "onnx-cpu"
