"""Graphs of an earlier start: found again, of the model's own weights, and never of others."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import numpy_helper
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.building import Graphs
from models.backends.onnx.export import Exported, Exporter
from models.backends.onnx.kept import KeptGraphs
from models.backends.onnx.layouts import OF_LAYOUT, maker
from models.backends.onnx.sending import pack_function
from models.core import Plan, Step
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain, Run
from tests.models.backends.exporting import InThisProcess, read_operators_once
from tests.models.backends.linear import WIDTH, ByHand, session_wins
from tests.tiny import tiny_model
from tests.tiny_text import tiny_exits, token_rows
from tests.walking import answers_of

X = torch.randn(3, WIDTH)
SHAPE = (3, 16, 16)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


def other(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T + 0


class Counting:
    """Counts what another exporter is asked for."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        self.count = 0

    def export(self, run: Run, args: Sequence[Value]) -> Exported:
        self.count += 1
        return self.exporter.export(run, args)

    def close(self) -> None:
        self.exporter.close()


class Never:
    def export(self, run: Run, args: Sequence[Value]) -> Exported:
        raise AssertionError(f"{run} is exported")

    def close(self) -> None:
        pass


@pytest.fixture
def by_hand() -> Counting:
    return Counting(ByHand())


class Start:
    """What a server has at hand after a start."""

    def __init__(self, folder: Path, exporter: Exporter, **bounds: int) -> None:
        self.kept, self.exporter = KeptGraphs(folder, **bounds), exporter

    def export(self, run: Run, args: Sequence[Value]) -> Exported:
        return Graphs(lambda key: None, self.kept, self.exporter).of(run, args)


def step(seed: int = 0) -> partial[Tensor]:
    return partial(linear, weight=torch.randn(WIDTH, WIDTH, generator=_seeded(seed)))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.graph.safetensors"))


@pytest.fixture(scope="module")
def one_registry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        read_operators_once(patch)
        yield


@pytest.mark.usefixtures("one_registry")
@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_second_start_exports_nothing_and_gives_torchs_answers(tmp_path: Path, kind: str) -> None:
    def start(exporter: Exporter) -> tuple[Plan, dict[str, Value], OnnxBackend]:
        torch.manual_seed(0)  # as if the same checkpoint were read
        if kind == "text":
            model = tiny_exits(projection=12, dims=(4, 12))
            plan = model.plan(model.space.largest, {"text": (9,)})
            batch: dict[str, Value] = {"text": Ragged.pack(token_rows((5, 1, 9)))}
        else:
            images = tiny_model(num_stages=1)
            subnet = images.space.select({None, "fish"}).smallest
            plan = images.plan(subnet, {"image": SHAPE}, ["fish"])
            batch = {"image": torch.randn(3, *SHAPE)}
        backend = OnnxBackend(
            max_bytes=10**9, exporter=exporter, graphs=tmp_path, clock=session_wins()
        )
        return plan, batch, backend

    def run(exporter: Exporter) -> tuple[int, int]:
        plan, batch, backend = start(exporter)
        backend.warm(Chain(plan.steps), list(batch.values()))
        (found,) = backend.run(plan, batch).values()
        (expected,) = answers_of(plan, batch).values()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        stats = backend.stats
        assert (stats.refused, stats.misses) == (0, 0)
        backend.close()
        return len(plan.steps), stats.bytes

    first = Counting(InThisProcess())
    num_steps, num_bytes = run(first)
    assert first.count == len(files(tmp_path)) > 1
    if kind == "text":  # token table, layers that are alike, exit
        assert first.count == 3 < num_steps
    # Weights are views again: sessions hold no more than those of the first start.
    assert run(Never()) == (num_steps, num_bytes)


def test_weights_are_views_of_the_functions_own(tmp_path: Path, by_hand: Counting) -> None:
    Start(tmp_path, by_hand).export(step(), [X])
    run = step()
    graph = Start(tmp_path, Never()).export(run, [X])
    assert graph.weights["weight"].data_ptr() == run.keywords["weight"].data_ptr()
    made = by_hand.exporter.export(run, [X])
    assert (graph.proto, graph.layout, graph.packed) == (made.proto, made.layout, made.packed)


def test_functions_that_differ_in_their_weights_alone_share_a_graph(
    tmp_path: Path, by_hand: Counting
) -> None:
    start, others = Start(tmp_path, by_hand), step(1)
    start.export(step(), [X])
    graph = start.export(others, [X])
    assert (by_hand.count, len(files(tmp_path))) == (1, 1)
    assert graph.weights["weight"].data_ptr() == others.keywords["weight"].data_ptr()


class Folding(ByHand):
    """Writes the values of weights into graphs, as constants or unseen."""

    def __init__(self, is_seen: bool) -> None:
        self.is_seen = is_seen

    def export(self, run: Any, args: Sequence[Value]) -> Exported:
        made = super().export(run, args)
        weight = run.keywords["weight"]
        if self.is_seen:
            return Exported(made.proto, {"weight": weight.clone()})
        made.proto.initializer.append(numpy_helper.from_array(weight.numpy(), "weight"))
        return Exported(made.proto, {})


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_graph_that_holds_values_of_weights_serves_no_others(
    tmp_path: Path, is_seen: bool
) -> None:
    def serve(exporter: Exporter) -> None:
        backend = OnnxBackend(
            max_bytes=10**9, exporter=exporter, graphs=tmp_path, clock=session_wins()
        )
        for seed in (0, 1):
            chain = Chain([Step("linear", step(seed), ("x",))])
            backend.warm(chain, [X])
            torch.testing.assert_close(
                backend.run_chain(chain, [X]), step(seed)(X), atol=1e-4, rtol=0
            )
        assert (backend.stats.sessions, backend.stats.refused) == (2, 0)
        backend.close()

    first = Counting(Folding(is_seen))
    serve(first)
    assert (first.count, len(files(tmp_path))) == (2, 2)
    serve(Never())


def test_constants_that_are_no_weights_are_kept_in_the_file(tmp_path: Path) -> None:
    constant = torch.arange(4.0)

    class WithConstants(ByHand):
        def export(self, run: Any, args: Sequence[Value]) -> Exported:
            made = super().export(run, args)
            own = {"c": constant, "the same": constant[1:], "scalar": torch.tensor(2.5).half()}
            return Exported(made.proto, {**made.weights, **own}, (), 0)

    Start(tmp_path, WithConstants()).export(step(), [X])
    graph = Start(tmp_path, Never()).export(step(), [X])
    assert graph.packed == 0
    assert list(graph.weights) == ["weight", "c", "the same", "scalar"]
    assert torch.equal(graph.weights["the same"], constant[1:])
    assert graph.weights["scalar"].dtype == torch.float16


WEIGHT = step().keywords["weight"]


@pytest.mark.parametrize(
    ("run", "x"),
    [
        (partial(other, weight=WEIGHT), X),  # another function
        (partial(linear, weight=WEIGHT.double()), X.double()),  # another type
        (step(), X[:2].clone()),  # other sizes, which may be written into a graph
    ],
)
def test_what_differs_is_exported_anew(
    tmp_path: Path, by_hand: Counting, run: partial[Tensor], x: Tensor
) -> None:
    start = Start(tmp_path, by_hand)
    start.export(step(), [X])
    start.export(run, [x])
    assert by_hand.count == 2
    start.export(run, [x + 1])  # the values of arguments are in no graph
    assert by_hand.count == 2


def test_code_that_changes_is_exported_anew(
    tmp_path: Path, by_hand: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start(tmp_path, by_hand)
    start.export(step(), [X])
    monkeypatch.setattr("models.backends.onnx.kept._sources", lambda modules: "changed")
    start.export(step(), [X])
    assert by_hand.count == 2


def test_the_key_of_a_model_is_that_of_its_code_and_not_of_its_use() -> None:
    torch.manual_seed(0)
    model = tiny_exits()
    plan = model.plan(model.space.smallest, {"text": (9,)})
    before = pack_function(plan.steps[0].run, [Ragged.pack(token_rows((5, 1, 9)))]).message
    for subnet in model.space:
        model.plan(subnet, {"text": (7,)})
    assert model.space.select({None}).largest
    after = pack_function(plan.steps[0].run, [Ragged.pack(token_rows((5, 1, 9)))]).message
    assert after == before


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def of_nothing(path: Path) -> None:
    save_file({"graph": torch.zeros(3)}, path)


def changed(**about: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with safe_open(path, "pt") as file:
            found = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, {"about": json.dumps({**found, **about})})

    return change


BEHIND = {"weight": [1, "float32", 1, [WIDTH, WIDTH], [WIDTH, 1]]}
BEFORE = {"weight": [1, "float32", -1, [WIDTH, WIDTH], [WIDTH, 1]]}
UNKNOWN = {"weight": [9, "float32", 0, [WIDTH, WIDTH], [WIDTH, 1]]}


@pytest.mark.parametrize(
    "harm",
    [
        damaged,
        of_nothing,
        changed(weights=BEHIND),
        changed(weights=BEFORE),
        changed(weights=UNKNOWN),
        changed(layout=[[0, "system"]]),
    ],
)
def test_a_file_that_is_no_graph_of_the_function_is_replaced(
    tmp_path: Path,
    by_hand: Counting,
    harm: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = Start(tmp_path, by_hand)
    start.export(step(), [X])
    (path,) = files(tmp_path)
    harm(path)
    with caplog.at_level(logging.WARNING):
        start.export(step(), [X])
    assert by_hand.count == 2
    assert str(path) in caplog.text
    Start(tmp_path, Never()).export(step(), [X])


def test_what_was_used_least_recently_goes(tmp_path: Path, by_hand: Counting) -> None:
    start = Start(tmp_path, by_hand, max_files=2)
    rows = [X[:count].clone() for count in (1, 2, 3)]  # for each a graph of its own
    for number, age in ((0, 30), (1, 20)):
        before = set(files(tmp_path))
        start.export(step(), [rows[number]])
        (path,) = set(files(tmp_path)) - before
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    start.export(step(), [rows[0]])  # from the folder: now it is the newer one
    start.export(step(), [rows[2]])
    assert (by_hand.count, len(files(tmp_path))) == (3, 2)
    start.export(step(), [rows[0]])
    assert by_hand.count == 3
    start.export(step(), [rows[1]])
    assert by_hand.count == 4


def test_files_are_bounded_in_bytes(tmp_path: Path, by_hand: Counting) -> None:
    start = Start(tmp_path, by_hand, max_bytes=1)
    start.export(step(), [X])
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(
    tmp_path: Path, by_hand: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    start = Start(blocked / "graphs", by_hand)
    with caplog.at_level(logging.WARNING):
        assert start.export(step(), [X]).proto == by_hand.exporter.export(step(), [X]).proto
    assert "not kept" in caplog.text


def test_a_folder_of_somebody_else_is_read(
    tmp_path: Path, by_hand: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    Start(tmp_path, by_hand).export(step(), [X])

    def refused(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refused)
    Start(tmp_path, Never()).export(step(), [X])


def test_a_session_that_is_too_large_is_not_exported_again(
    tmp_path: Path, by_hand: Counting
) -> None:
    Start(tmp_path, by_hand).export(step(), [X])
    backend = OnnxBackend(max_bytes=1, exporter=Never(), graphs=tmp_path, clock=session_wins())
    backend.warm(Chain([Step("linear", step(), ("x",))]), [X])
    assert backend.stats.refused == 1
    backend.close()


def test_one_function_that_cannot_be_exported_has_no_other_exported_again(
    tmp_path: Path, by_hand: Counting
) -> None:
    class NoOthers(ByHand):
        def export(self, run: Any, args: Sequence[Value]) -> Exported:
            if run.func is other:
                raise NotImplementedError
            return super().export(run, args)

    Start(tmp_path, by_hand).export(step(), [X])
    exporter = Counting(NoOthers())
    backend = OnnxBackend(max_bytes=10**9, exporter=exporter, graphs=tmp_path, clock=session_wins())
    first = Step("linear", step(), ("x",))
    second = Step("other", partial(other, weight=WEIGHT), (first,))
    backend.expect(Plan({"task": second}), {"x": X})
    while backend.stats.waiting:
        threading.Event().wait(0.01)
    assert (backend.stats.refused, exporter.count) == (1, 1)
    backend.close()


def test_what_cannot_be_pickled_is_the_exporters_own_matter(
    tmp_path: Path, by_hand: Counting
) -> None:
    weight = torch.randn(WIDTH, WIDTH)
    run = partial(lambda x, weight: x @ weight.T, weight=weight)
    Start(tmp_path, by_hand).export(run, [X])
    assert by_hand.count == 1
    assert not files(tmp_path)


def test_tensors_of_a_layout_are_known_by_name() -> None:
    layout = Ragged.pack(token_rows((3, 1))).layout
    for name in (*OF_LAYOUT, "mask_causal_any", "mask_both_2"):
        assert isinstance(maker(name)(layout), Tensor)
    assert not torch.equal(maker("mask_causal_any")(layout), maker("mask_both_any")(layout))
    with pytest.raises(ValueError, match="nothing of a layout"):
        maker("mask_odd_any")
