"""Functions exported by another process are those exported here, and its end is survived."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.export import Exported
from models.backends.onnx.process import ExportProcess
from models.core import Plan
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain
from tests.models.backends.linear import session_wins
from tests.tiny import tiny_model
from tests.tiny_text import tiny_exits, token_rows
from tests.walking import answers_of

X = torch.ones(3, 2)
SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def process() -> Iterator[ExportProcess]:
    process = ExportProcess()
    yield process
    process.close()


def double(x: Tensor) -> Tensor:
    return x * 2


class OnArrival:
    """A function that does something else where it is unpickled, long before an export is done."""

    def __init__(self, act: Callable[[int], object]) -> None:
        self.act = act

    def __setstate__(self, state: dict[str, Callable[[int], object]]) -> None:
        state["act"](os.getpid())

    def __call__(self, x: Tensor) -> Tensor:
        return x


def die(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def fail(pid: int) -> None:
    raise LookupError("a function from nowhere")


def hang(pid: int) -> None:
    threading.Event().wait(60)


def test_graphs_share_the_models_weights_and_give_torchs_answers(process: ExportProcess) -> None:
    text, images = tiny_exits(projection=12, dims=(4, 12)), tiny_model(num_stages=1)
    image_space = images.space.select({None, "fish"})
    image_plan = images.plan(image_space.smallest, {"image": SHAPE}, ["fish"])
    text_plan = text.plan(text.space.smallest, {"text": (9,)})
    runs: list[tuple[Plan, dict[str, Value]]] = [
        (text_plan, {"text": Ragged.pack(token_rows((5, 1, 9)))}),
        (image_plan, {"image": torch.randn(3, *SHAPE)}),
    ]
    backend = OnnxBackend(max_bytes=10**9, exporter=process, clock=session_wins(), pack=False)
    for plan, batch in runs:
        backend.warm(Chain(plan.steps), list(batch.values()))
        (found,) = backend.run(plan, batch).values()
        (expected,) = answers_of(plan, batch).values()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    stats = backend.stats
    assert (stats.refused, stats.misses, stats.hits) == (0, 0, 2)
    backend.forget(text)
    backend.forget(images)
    assert backend.stats.bytes == 0
    hidden = Ragged(torch.randn(5, 16), Ragged.pack(token_rows((3, 2))).layout)
    graph = process.export(text_plan.steps[1].run, [hidden])
    own = {parameter.untyped_storage().data_ptr() for parameter in text.parameters()}
    assert {weight.untyped_storage().data_ptr() for weight in graph.weights.values()} <= own


def test_what_cannot_be_exported_is_an_error_and_the_next_function_is_served(
    process: ExportProcess,
) -> None:
    with pytest.raises(Exception, match="lambda"):
        process.export(lambda x: x, [X])
    with pytest.raises(RuntimeError, match="data-dependent"):
        process.export(reads_a_value, [X])
    assert isinstance(process.export(double, [X]), Exported)


def reads_a_value(x: Tensor) -> Tensor:
    return x * 2 if float(x.sum()) > 0 else x


@pytest.mark.slow
def test_a_process_that_dies_is_started_anew_but_not_for_ever() -> None:
    process = ExportProcess(max_deaths=2)
    for act, message in ((die, "died"), (fail, "nowhere"), (die, "died"), (fail, "died 2 times")):
        with pytest.raises(RuntimeError, match=message):
            process.export(OnArrival(act), [X])
    process.close()


@pytest.mark.slow
def test_a_process_without_work_ends_until_there_is_some() -> None:
    process = ExportProcess(idle_s=0, max_deaths=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="nowhere"):
            process.export(OnArrival(fail), [X])
    process.close()


def test_a_function_that_takes_too_long_is_given_up() -> None:
    process = ExportProcess(timeout_s=0)
    with pytest.raises(RuntimeError, match="too long"):
        process.export(double, [X])
    process.close()


def test_close_ends_the_export_under_way() -> None:
    process = ExportProcess()
    errors: list[Exception] = []

    def export() -> None:
        try:
            process.export(OnArrival(hang), [X])
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=export)
    thread.start()
    process.close()
    thread.join(30)
    assert len(errors) == 1
    with pytest.raises(RuntimeError, match="closed"):
        process.export(double, [X])
