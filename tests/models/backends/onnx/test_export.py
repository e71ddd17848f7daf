"""Sessions of real models give torch's answers, for batches of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from random import Random

import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from models.backends.onnx.backend import OnnxBackend
from models.backends.onnx.export import Graph, export
from models.core import Cost, Plan, Step, with_raw
from models.nn.ragged import Layout, Ragged, Value
from models.run.chain import Run
from tests.models.backends.linear import session_wins
from tests.tiny import tiny_model
from tests.tiny_text import tiny_exits, token_rows

LENGTHS = ((5, 1, 9, 9, 3), (1,), (4, 4), (30, 2), (7,))


@pytest.fixture(scope="module", autouse=True)
def one_registry() -> Iterator[None]:
    """Read the exporter's table of operators once; it reads it in every call, for two seconds."""
    exporter = pytest.importorskip("torch.onnx._internal.exporter._registration")
    with pytest.MonkeyPatch.context() as patch:
        read = cache(exporter.ONNXRegistry.from_torchlib)
        patch.setattr(exporter.ONNXRegistry, "from_torchlib", staticmethod(read))
        yield


class InThisProcess:
    """Exports without another process, which has tests of its own."""

    def export(self, run: Run, args: Sequence[Value]) -> Graph:
        return export(run, args)

    def close(self) -> None:
        pass


def make(device: str = "cpu") -> OnnxBackend:
    return OnnxBackend(device, max_bytes=10**9, exporter=InThisProcess(), clock=session_wins())


@pytest.fixture(scope="module")
def backend() -> Iterator[OnnxBackend]:
    backend = make()
    yield backend
    backend.close()


Values = Mapping[str, Tensor | Ragged]


def check(backend: OnnxBackend, plan: Plan, batches: Sequence[Values]) -> None:
    """Compare torch with a session for each step, then with one for the plan."""
    backend.warm(plan, batches[0])
    before = backend.stats
    assert before.refused == 0
    for batch in batches:
        seen = steps = dict(batch)
        for step in plan:
            seen = {**seen, step.emits: step.run(*(seen[name] for name in step.takes))}
            steps = {**steps, step.emits: backend.run_chain([step], steps)}
        expected = seen[plan[-1].emits]
        for found in (steps[plan[-1].emits], backend.run(plan, batch)[plan[-1].path]):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert backend.stats.misses == before.misses


def text_batches() -> list[Values]:
    return [{"tokens": Ragged.pack(token_rows(lengths))} for lengths in LENGTHS]


def test_a_text_encoder_gives_torchs_vectors_for_rows_of_any_length(backend: OnnxBackend) -> None:
    model = tiny_exits()
    backend.prepare(model)
    subnet = model.space.check({"depth": 1, "heads": 0.5, "ffn": 0.5, "dim": 8})
    plan = model.plan(subnet, (9,))
    check(backend, plan, text_batches())
    check(backend, with_raw(plan), text_batches())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "pooling", "depth"),
    [("relative", "cls", 1), ("grouped", "last", 1), ("gated", "mean", 2)],  # layer 2 has a window
)
def test_every_architecture_gives_torchs_vectors(
    backend: OnnxBackend, architecture: str, pooling: str, depth: int
) -> None:
    model = tiny_exits(architecture, pooling=pooling, projection=12, dims=(4, 12))
    backend.prepare(model)
    subnet = model.space.check({**model.space.sample(Random(architecture)), "depth": depth})
    plan = model.plan(subnet, (9,))
    check(backend, plan, text_batches())
    check(backend, with_raw(plan), text_batches())


def image_batches(shape: tuple[int, ...]) -> list[Values]:
    return [{"image": torch.randn(rows, *shape)} for rows in (3, 1, 8)]


def test_a_classifier_gives_torchs_logits_for_any_number_of_images(backend: OnnxBackend) -> None:
    model = tiny_model(num_stages=1)
    backend.prepare(model)
    subnet = model.space.select({None, "fish"}).sample(Random(0))
    plan = model.plan(subnet, model.input.shape, ["fish"])
    check(backend, plan, image_batches(model.input.shape))


@pytest.mark.slow
def test_a_sample_of_classifiers_gives_torchs_logits(backend: OnnxBackend) -> None:
    model, rng = tiny_model(), Random(1)
    backend.prepare(model)
    for task in ("fish", "people"):
        subnet = model.space.select({None, task}).sample(rng)
        plan = model.plan(subnet, model.input.shape, [task])
        check(backend, plan, image_batches(model.input.shape))


def reads_a_value(x: Tensor) -> Tensor:
    return x * 2 if float(x.sum()) > 0 else x


def knows_its_batch(x: Tensor) -> Tensor:
    return x * 2 if len(x) == 3 else x


def reads_lengths(x: Ragged) -> Ragged:
    return x.replace(x.values * max(x.layout.lengths))


def makes_a_layout(x: Ragged) -> Ragged:
    return Ragged(x.values, Layout(x.layout.lengths, x.layout.device))


@pytest.mark.parametrize(
    "run", [reads_a_value, knows_its_batch, reads_lengths, makes_a_layout], ids=lambda f: f.__name__
)
def test_what_cannot_be_exported_stays_with_torch(run: Callable[..., Tensor | Ragged]) -> None:
    backend = make()
    is_packed = run in (reads_lengths, makes_a_layout)
    step = Step("step", run, Cost(), None, ("x",), "y")
    rows = [torch.ones(length, 2) for length in (3, 1, 2)]
    x = Ragged.pack(rows) if is_packed else torch.stack([row[0] for row in rows])
    for _ in range(2):
        backend.warm([step], {"x": x})
        found, expected = (y.values if isinstance(y, Ragged) else y for y in (
            backend.run_chain([step], {"x": x}), run(x)
        ))  # fmt: skip
        torch.testing.assert_close(found, expected)
    stats = backend.stats
    assert (stats.refused, stats.misses, stats.sessions, stats.hits) == (1, 2, 0, 0)


def test_two_layouts_in_one_call_stay_with_torch() -> None:
    backend = make()
    step = Step("step", lambda x, y: x.layout.mean(y.values), Cost(), None, ("x", "y"), "z")
    x, y = (Ragged.pack([torch.randn(2, 3)]) for _ in range(2))
    backend.warm([step], {"x": x, "y": y})
    found = backend.run_chain([step], {"x": x, "y": y})
    torch.testing.assert_close(found, step.run(x, y))
    assert (backend.stats.refused, backend.stats.misses) == (1, 1)


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs onnxruntime-gpu"
)
def test_the_gpu_gives_the_answers_of_torch() -> None:
    backend = make("cuda")
    model = tiny_exits().to("cuda")
    subnet = model.space.check({"depth": 1, "heads": 0.5, "ffn": 0.5, "dim": 8})
    batches = [{name: backend.place(value) for name, value in b.items()} for b in text_batches()]
    check(backend, model.plan(subnet, (9,)), batches)
