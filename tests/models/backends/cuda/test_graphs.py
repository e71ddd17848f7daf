from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count

import pytest
import torch
from torch import Tensor

from models.backends.cuda.graphs import GraphBackend, RecordingPolicy
from models.backends.torch import TorchBackend
from models.core import Plan, Step
from models.families.exits import Exits
from models.nn.ragged import Ragged, Value
from models.run.chain import Chain
from models.run.execution import StoppedError
from tests.models.backends.cuda.tape import Tape
from tests.tiny import tiny_model
from tests.tiny_text import tiny_exits, token_rows

MODEL = tiny_exits()
SHAPE = (3, 16, 16)

traced: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
traced = partial(torch.compile, dynamic=False, backend="eager")


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def backend(tape: Tape) -> Iterator[GraphBackend]:
    policy = RecordingPolicy(record_after=2, compile_after=None, max_recorded=4)
    backend = GraphBackend("cpu", policy=policy, recorder=tape, compiler=traced)
    yield backend
    backend.close()


def text_plan(model: Exits = MODEL) -> Plan:
    subnet = model.space.check({"depth": 2, "heads": 0.5, "ffn": 0.5, "dim": 8})
    return model.plan(subnet, {"text": (4,)})


def images(rows: int) -> dict[str, Value]:
    return {"image": torch.randn(rows, *SHAPE)}


def tokens(*lengths: int, seed: int = 0) -> dict[str, Value]:
    return {"text": Ragged.pack(token_rows(list(lengths), seed))}


def same(backend: GraphBackend, plan: Plan, inputs: Mapping[str, Value]) -> None:
    expected = TorchBackend().run(plan, inputs)
    found = backend.run(plan, inputs)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        torch.testing.assert_close(found[path], value, atol=1e-5, rtol=0)


def test_images_of_any_number_run_from_recordings_of_a_few_sizes(
    backend: GraphBackend, tape: Tape
) -> None:
    model = tiny_model()
    plan = model.plan(model.space.select({None, "fish"}).largest, {"image": SHAPE}, ["fish"])
    chains = 1
    for rows in (3, 4, 3, 4):
        same(backend, plan, images(rows))
    assert (tape.num_recorded, tape.num_replayed) == (chains, 3 * chains)
    same(backend, plan, images(5))  # eight rows: another recording
    same(backend, plan, images(33))  # above all sizes
    same(backend, plan, images(33))
    assert (tape.num_recorded, tape.num_replayed) == (chains, 3 * chains)


def test_text_is_recorded_where_the_rows_of_a_batch_have_one_length(
    backend: GraphBackend, tape: Tape
) -> None:
    plan = text_plan()
    for seed in range(3):
        same(backend, plan, tokens(5, seed=seed))
        same(backend, plan, tokens(3, 3, 3, seed=seed))
        same(backend, plan, tokens(2, 4, seed=seed))
    assert tape.num_recorded == 2
    assert tape.num_replayed == 4


def test_a_lone_call_records_nothing(backend: GraphBackend, tape: Tape) -> None:
    same(backend, text_plan(), tokens(5))
    same(backend, text_plan(), tokens(6))
    assert tape.num_recorded == 0


def test_answers_are_not_written_over_by_the_next_batch(backend: GraphBackend) -> None:
    plan = text_plan()
    for _ in range(2):
        backend.run(plan, tokens(5, seed=1))
    (first,) = backend.run(plan, tokens(5, seed=1)).values()
    kept = first.clone()
    backend.run(plan, tokens(5, seed=2))
    assert torch.equal(first, kept)


def test_recordings_are_bounded_and_the_unused_go_first(backend: GraphBackend, tape: Tape) -> None:
    plan = text_plan()
    for length in range(1, 7):
        for _ in range(2):
            same(backend, plan, tokens(length))
        same(backend, plan, tokens(1))
    assert backend.stats.recordings == 4
    assert tape.num_recorded == 6
    same(backend, plan, tokens(1))
    assert tape.num_recorded == 6  # kept, as it was used in between
    same(backend, plan, tokens(2))
    assert tape.num_recorded == 6  # given up, and called for once
    same(backend, plan, tokens(2))
    assert tape.num_recorded == 7


def test_what_cannot_be_recorded_stays_with_torch(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing:
        def record(self, run: Callable[[], Value]) -> tuple[Callable[[], None], Value]:
            raise RuntimeError("operation not permitted when stream is capturing")

    backend = GraphBackend("cpu", policy=RecordingPolicy(1, None), recorder=Refusing())
    for _ in range(3):
        same(backend, text_plan(), tokens(5))
    assert backend.stats.recordings == 0
    assert caplog.text.count("not recorded: operation not permitted") == 1


def test_a_recording_asks_once_whether_to_stop(backend: GraphBackend, tape: Tape) -> None:
    plan = text_plan()
    for _ in range(2):
        backend.run(plan, tokens(5))
    with pytest.raises(StoppedError):
        backend.run_chain(Chain(plan.steps), list(tokens(5).values()), lambda: True)
    assert tape.num_replayed == 1


@pytest.mark.parametrize("gains", [True, False])
def test_a_hot_chain_is_compiled_and_kept_if_that_is_faster(gains: bool, tape: Tape) -> None:
    # Of each pair of timed replays, the first is the old recording's.
    durations = (1.0, 0.5) if gains else (1.0, 1.5)
    ticks = count()

    def clock() -> float:
        pair, edge = divmod(next(ticks), 2)
        return 10.0 * pair + edge * durations[pair % 2]

    backend = GraphBackend(
        "cpu",
        policy=RecordingPolicy(record_after=1, compile_after=2),
        recorder=tape,
        compiler=traced,
        clock=clock,
    )
    plan = text_plan()
    for _ in range(2):
        same(backend, plan, tokens(5))
    backend.close()  # once the compiler has finished
    (before,) = backend._recorded.values()
    same(backend, plan, tokens(5))
    (after,) = backend._recorded.values()
    assert (after is not before) == gains
    assert backend.stats.gains == gains
    assert tape.num_recorded == 2
    same(backend, plan, tokens(5, seed=3))


def test_every_hot_chain_is_compiled_however_many_there_are(tape: Tape) -> None:
    num_compiled = 0

    def counted(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        nonlocal num_compiled
        num_compiled += 1
        return graph.forward

    backend = GraphBackend(
        "cpu",
        policy=RecordingPolicy(record_after=1, compile_after=2),
        recorder=tape,
        compiler=partial(torch.compile, dynamic=False, backend=counted),
    )
    lengths = range(1, 13)
    for length in lengths:
        for _ in range(2):
            same(backend, text_plan(), tokens(length))
    backend.close()
    assert num_compiled == len(lengths)
    for length in lengths:
        same(backend, text_plan(), tokens(length))
    assert num_compiled == len(lengths)  # none anew, in the thread that serves


def test_what_compiles_wrongly_is_not_used(tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *tensors: run(*tensors) + 0.1

    policy = RecordingPolicy(record_after=1, compile_after=2)
    backend = GraphBackend("cpu", policy=policy, recorder=tape, compiler=wrong)
    for _ in range(2):
        same(backend, text_plan(), tokens(5))
    backend.close()
    same(backend, text_plan(), tokens(5))
    assert tape.num_recorded == 1
    assert "not compiled" in caplog.text


def test_nothing_is_kept_of_a_model_that_is_forgotten(backend: GraphBackend) -> None:
    one, other = tiny_exits(), tiny_exits()
    for model in (one, other):
        for _ in range(2):
            backend.run(text_plan(model), tokens(5))
    assert backend.stats.recordings == 2
    backend.forget(one)
    assert backend.stats.recordings == 1
    same(backend, text_plan(other), tokens(5))


def shifted(row: Tensor, x: Ragged, y: Ragged) -> Ragged:
    return y.replace(y.values + (row + x.layout.mean(x.values))[y.layout.rows])


def of_two_layouts() -> Plan:
    """Return a plan whose chain gives values packed as its second packed input."""
    first = Step("first", shifted, ("row", "x", "y"))
    return Plan({"task": Step("mean", lambda y: y.layout.mean(y.values), (first,))})


def two_layouts(rows: int, x: int, y: int) -> list[Value]:
    def packed(length: int) -> Ragged:
        return Ragged.pack([torch.randn(length, 4) for _ in range(rows)])

    return [torch.randn(1, 4).expand(rows, 4), packed(x), packed(y)]


def test_a_result_is_packed_as_the_input_that_it_was_made_of(
    backend: GraphBackend, tape: Tape
) -> None:
    chain = Chain(of_two_layouts().steps[:1])
    for _ in range(3):
        for rows, x, y in ((3, 2, 5), (3, 5, 2), (4, 2, 5)):
            inputs = two_layouts(rows, x, y)
            found, expected = backend.run_chain(chain, inputs), shifted(*inputs)  # type: ignore[arg-type]
            assert isinstance(found, Ragged)
            assert found.layout is expected.layout
            torch.testing.assert_close(found.values, expected.values)
    assert (tape.num_recorded, tape.num_replayed) == (2, 7)  # three rows run as four


def test_a_result_with_a_layout_of_its_own_stays_with_torch(
    backend: GraphBackend, caplog: pytest.LogCaptureFixture
) -> None:
    chain = Chain([Step("half", lambda x: Ragged.pack([x.values[:2]]), ("x",))])
    for _ in range(3):
        found = backend.run_chain(chain, [Ragged.pack([torch.randn(4, 2)])])
        assert isinstance(found, Ragged)
        assert found.layout.lengths == (2,)
    assert backend.stats.recordings == 0
    assert "layout of its own" in caplog.text


def test_a_compiled_chain_of_two_layouts_packs_its_result_as_the_recording_did(tape: Tape) -> None:
    policy = RecordingPolicy(record_after=1, compile_after=2)
    ticks = count()
    backend = GraphBackend(
        "cpu",
        policy=policy,
        recorder=tape,
        compiler=traced,
        clock=lambda: float(0 if (n := next(ticks)) % 4 in (0, 1) else n),
    )
    chain = Chain(of_two_layouts().steps[:1])
    for _ in range(2):
        backend.run_chain(chain, two_layouts(3, 2, 5))
    backend.close()
    for _ in range(2):
        inputs = two_layouts(3, 2, 5)
        found, expected = backend.run_chain(chain, inputs), shifted(*inputs)  # type: ignore[arg-type]
        assert isinstance(found, Ragged)
        assert found.layout is expected.layout
        torch.testing.assert_close(found.values, expected.values)
    assert tape.num_recorded == 2


@pytest.mark.gpu
def test_a_failed_recording_leaves_stream_and_device_as_they_were() -> None:
    backend = GraphBackend("cuda", policy=RecordingPolicy(1, None))
    before = torch.cuda.current_stream()
    chain = Chain([Step("items", lambda row: row * row.sum().item(), ("row",))])
    rows = torch.ones(2, 3, device="cuda")
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(backend.run_chain(chain, [rows]), rows * 6)
    assert backend.stats.recordings == 0
    assert torch.cuda.current_stream() == before
    model = tiny_exits()
    backend.prepare(model)
    for _ in range(2):
        backend.run(text_plan(model), tokens(5))
    assert backend.stats.recordings > 0


@pytest.mark.gpu
def test_cuda_graphs_give_the_answers_of_torch() -> None:
    policy = RecordingPolicy(record_after=1, compile_after=3)
    backend = GraphBackend("cuda", policy=policy)
    text, image = tiny_exits(), tiny_model()
    for model in (text, image):
        backend.prepare(model)
    reference = TorchBackend("cuda")
    plans: list[tuple[Plan, list[Mapping[str, Value]]]] = [
        (text_plan(text), [tokens(5), tokens(3, 3), tokens(2, 4)]),
        (
            image.plan(image.space.largest, {"image": SHAPE}),
            [images(rows) for rows in (1, 3, 4)],
        ),
    ]
    for _ in range(6):
        for plan, batches in plans:
            for inputs in batches:
                expected = reference.run(plan, inputs)
                for path, value in backend.run(plan, inputs).items():
                    torch.testing.assert_close(value, expected[path], atol=1e-3, rtol=1e-3)
    assert backend.stats.recordings > 0
    backend.close()
