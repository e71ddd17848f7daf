"""Sessions of real models give torch's answers, for batches of any shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backends.onnx.backend import OnnxBackend
from models.core import Plan, Step
from models.nn.quantized import int8_copy
from models.nn.ragged import Layout, Ragged, Value
from models.run.chain import Chain
from tests.models.backends.exporting import InThisProcess, read_operators_once
from tests.models.backends.linear import session_wins
from tests.models.nn.test_quantized import ONE, odd_unit
from tests.tiny import tiny_model
from tests.tiny_text import tiny_exits, token_rows
from tests.walking import answers_of

SHAPE = (3, 16, 16)
LENGTHS = ((5, 1, 9, 9, 3), (1,), (4, 4), (30, 2), (7,))


@pytest.fixture(scope="module", autouse=True)
def one_registry() -> Iterator[None]:
    """Read the exporter's table of operators once; it reads it in every call, for two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        read_operators_once(patch)
        yield


def make(device: str = "cpu") -> OnnxBackend:
    return OnnxBackend(device, max_bytes=10**9, exporter=InThisProcess(), clock=session_wins())


@pytest.fixture(scope="module")
def backend() -> Iterator[OnnxBackend]:
    backend = make()
    yield backend
    backend.close()


Values = Mapping[str, Value]


def check(backend: OnnxBackend, plan: Plan, batches: Sequence[Values]) -> None:
    """Compare torch with a session for each step, then with one for the plan."""
    chain = Chain(plan.steps)

    def inputs(batch: Values) -> list[Value]:
        return [batch[name] for name in chain.externals if isinstance(name, str)]

    backend.warm(chain, inputs(batches[0]))
    before = backend.stats
    assert before.refused == 0
    for batch in batches:
        (expected,) = answers_of(plan, batch).values()
        by_steps = chain.run_each(inputs(batch), backend.run_chain)
        (at_once,) = backend.run(plan, batch).values()
        for found in (by_steps, at_once):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert backend.stats.misses == before.misses


def text_batches() -> list[Values]:
    return [{"text": Ragged.pack(token_rows(lengths))} for lengths in LENGTHS]


def test_a_text_encoder_gives_torchs_vectors_for_rows_of_any_length(backend: OnnxBackend) -> None:
    model = tiny_exits()
    backend.prepare(model)
    subnet = model.space.check({"depth": 1, "heads": 0.5, "ffn": 0.5, "dim": 8})
    plan = model.plan(subnet, {"text": (9,)})
    check(backend, plan, text_batches())
    check(backend, plan.with_raw(), text_batches())


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
    plan = model.plan(subnet, {"text": (9,)})
    check(backend, plan, text_batches())
    check(backend, plan.with_raw(), text_batches())


def image_batches() -> list[Values]:
    return [{"image": torch.randn(rows, *SHAPE)} for rows in (3, 1, 8)]


def test_a_classifier_gives_torchs_logits_for_any_number_of_images(backend: OnnxBackend) -> None:
    model = tiny_model(num_stages=1)
    backend.prepare(model)
    subnet = model.space.select({None, "fish"}).sample(Random(0))
    plan = model.plan(subnet, {"image": SHAPE}, ["fish"])
    check(backend, plan, image_batches())


def test_rounded_convolutions_with_any_scales_differ_by_a_level_at_most(
    backend: OnnxBackend,
) -> None:
    unit, x, _ = odd_unit()
    assert unit.ranges is not None
    few = int8_copy(unit)
    chain = Chain((Step(("unit",), lambda x: few(x, ONE, 0, 1e-5), ("x",)),))
    backend.warm(chain, [x])
    apart = (backend.run_chain(chain, [x]) - few(x, ONE, 0, 1e-5)).abs()
    assert float(apart.max()) < 1.01 * unit.ranges.steps(is_positive=True)[2]
    assert float((apart > 0.1 * apart.max()).float().mean()) < 0.01


@pytest.mark.slow
def test_a_sample_of_classifiers_gives_torchs_logits(backend: OnnxBackend) -> None:
    model, rng = tiny_model(), Random(1)
    backend.prepare(model)
    for task in ("fish", "people"):
        subnet = model.space.select({None, task}).sample(rng)
        plan = model.plan(subnet, {"image": SHAPE}, [task])
        check(backend, plan, image_batches())


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
    chain = Chain([Step("step", run, ("x",))])
    rows = [torch.ones(length, 2) for length in (3, 1, 2)]
    x = Ragged.pack(rows) if is_packed else torch.stack([row[0] for row in rows])
    for _ in range(2):
        backend.warm(chain, [x])
        results = backend.run_chain(chain, [x]), run(x)
        found, expected = (y.values if isinstance(y, Ragged) else y for y in results)
        torch.testing.assert_close(found, expected)
    stats = backend.stats
    assert (stats.refused, stats.misses, stats.sessions, stats.hits) == (1, 2, 0, 0)


class Cross(nn.Module):
    """Lets packed tokens attend over those of another layout, and a vector per row join in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.requires_grad_(False)

    def attend(self, x: Ragged, y: Ragged) -> Ragged:
        q = x.layout.pad(self.query(x.values))[:, None]
        k, v = (y.layout.pad(part(y.values))[:, None] for part in (self.key, self.value))
        mask = y.layout.present[:, None, None].expand(-1, -1, x.layout.longest, -1)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return x.replace(x.values + x.layout.unpad(found[:, 0]))

    def shift(self, row: Tensor, x: Ragged) -> Ragged:
        return x.replace(x.values + row[x.layout.rows])

    def own(self, x: Ragged) -> Ragged:
        return x.replace(self.value(x.values).relu())

    def pool(self, x: Ragged, y: Ragged) -> Tensor:
        return x.layout.mean(x.values) * y.layout.last(y.values)

    def plan(self) -> Plan:
        """Take x, y and a row; layouts are met in another order by each step."""
        crossed = Step("attend", self.attend, ("x", "y"))
        shifted = Step("shift", self.shift, ("row", "y"))
        owned = Step("own", self.own, (shifted,))
        back = Step("attend", self.attend, (owned, crossed))
        return Plan({"answer": Step("pool", self.pool, (back, crossed))})


@pytest.mark.parametrize("rows", [1, 3])
def test_steps_of_several_layouts_run_by_one_session(rows: int) -> None:
    backend, model = make(), Cross()

    def batch(*pairs: tuple[int, int]) -> Values:
        x, y = zip(*pairs, strict=True)
        packed = (Ragged.pack([torch.randn(length, 8) for length in lengths]) for lengths in (x, y))
        row = torch.randn(1, 8).expand(len(pairs), 8)
        return dict(zip(("x", "y", "row"), (*packed, row), strict=True))

    batches = [batch(*[(4, 2), (1, 7), (3, 3)][:rows]), batch((5, 5), (5, 5)), batch((2, 9))]
    check(backend, model.plan(), batches)
    assert backend.stats.builds == 5  # one for the plan, one for each function of it


def test_one_layout_where_a_session_has_two_and_two_where_it_has_one_are_told_apart() -> None:
    backend, model = make(), Cross()
    chain = Chain([Step("pool", model.pool, ("x", "y"))])
    x = Ragged.pack([torch.randn(length, 8) for length in (2, 5)])
    same = x.replace(torch.randn(7, 8))
    other = Ragged(same.values, Layout((2, 5), x.layout.device))
    for y in (same, other):
        backend.warm(chain, [x, y])
        torch.testing.assert_close(backend.run_chain(chain, [x, y]), model.pool(x, y))
    assert (backend.stats.builds, backend.stats.hits, backend.stats.misses) == (2, 2, 0)


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs onnxruntime-gpu"
)
def test_the_gpu_gives_the_answers_of_torch() -> None:
    backend = make("cuda")
    model = tiny_exits().to("cuda")
    subnet = model.space.check({"depth": 1, "heads": 0.5, "ffn": 0.5, "dim": 8})
    batches = [{name: backend.place(value) for name, value in b.items()} for b in text_batches()]
    check(backend, model.plan(subnet, {"text": (9,)}), batches)
