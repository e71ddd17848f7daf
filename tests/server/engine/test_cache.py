from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from models.backends.torch import TorchBackend
from models.core import Cost, Plan, Step
from models.inputs import Inputs, Slot
from models.inputs.image import ImageInput
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.jobs import Done
from server.engine.cache import ContentCache, answers_of
from server.engine.engine import Engine
from server.engine.item import PreparedPlan, QueueItem
from server.engine.local import LocalCore
from tests.server.engine.fake import FakeBackend, answers, submit, work
from tests.server.samples import run

ROOM = 100_000
IMAGE = ImageInput(1, 1, (0, 0, 0), (1, 1, 1))


def put(cache: ContentCache, name: str, *values: float) -> QueueItem:
    """Keep an answer of the work ``a1``: input 1 for plan a."""
    one = work(name)
    cache.put(one, Done({"answer": torch.tensor(values)}, {}, 0.0))
    return one


def kept(cache: ContentCache, name: str) -> list[float] | None:
    one = work(name)
    answers_ = answers_of(one, cache.recall(one))
    return None if answers_ is None else answers_["answer"].tolist()


def test_equal_inputs_of_equal_plans_have_equal_answers_and_no_others() -> None:
    cache = ContentCache(ROOM)
    put(cache, "a1", 7)
    assert kept(cache, "a1") == [7]
    assert kept(cache, "a2") is None
    assert kept(cache, "b1") is None


def test_without_room_nothing_is_kept_or_counted() -> None:
    cache = ContentCache(0)
    put(cache, "a1", 7)
    assert kept(cache, "a1") is None
    assert cache.stats == (0, 0, 0, 0)


def test_what_was_not_used_for_longest_goes_first_and_bytes_are_bounded() -> None:
    cache = ContentCache(3 * 900)
    for name in ("a1", "a2", "a3"):
        put(cache, name, 1, 2, 3)
    assert kept(cache, "a1") is not None
    put(cache, "a4", 1, 2, 3)
    found = [name for name in ("a4", "a1", "a2", "a3") if kept(cache, name) is not None]
    assert found == ["a4", "a1", "a3"]
    assert cache.stats.entries == 3
    assert cache.stats.bytes <= 3 * 900
    assert (cache.stats.hits, cache.stats.misses) == (4, 1)


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = ContentCache(2000)
    put(cache, "a1", 1)
    put(cache, "a2", *range(1000))
    assert kept(cache, "a2") is None
    assert kept(cache, "a1") is not None


def test_an_entry_that_is_written_again_counts_once() -> None:
    cache = ContentCache(ROOM)
    for _ in range(3):
        put(cache, "a1", 1, 2)
    assert cache.stats.entries == 1
    put(cache, "a2", 1, 2)
    assert cache.stats.bytes == 2 * (cache.stats.bytes // 2)


def test_a_kept_row_does_not_hold_its_batch() -> None:
    cache = ContentCache(ROOM)
    one = work("a1")
    cache.put(one, Done({"answer": torch.arange(1000.0)[:2]}, {}, 0.0))
    (found,) = cache.recall(one).values()
    assert isinstance(found, torch.Tensor)
    assert found.untyped_storage().nbytes() == 8


def pair(image: float, text: float) -> QueueItem:
    """Make a work of two inputs: one is encoded, and then meets the other."""
    encoded = Step("encode", torch.clone, ("image",), Cost(1, 0))  # worth keeping
    both = Step("both", lambda x, y: x + 10 * y, (encoded, "text"))
    inputs = Inputs(dict.fromkeys(("image", "text"), Slot(IMAGE)))
    item = inputs.item({"image": torch.tensor([image]), "text": torch.tensor([text])})
    return QueueItem(PreparedPlan("model", Plan({"answer": both}), inputs), item)


def test_what_an_input_alone_decides_is_kept_for_items_with_other_inputs() -> None:
    async def scenario() -> None:
        backend = TorchBackend()
        calls: list[tuple[object, int]] = []
        cache = ContentCache(ROOM)
        clock = time.perf_counter
        engine = Engine(LocalCore(backend, 4, 4096, clock, cache=cache), 64, clock)
        run_chain = backend.run_chain

        def noted(chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool]) -> Value:
            calls.extend((step.key, len(inputs[0])) for step in chain.steps)
            return run_chain(chain, inputs, stop)

        backend.run_chain = noted  # type: ignore[method-assign, assignment]
        await engine.start()
        for works, expected in (
            ([pair(1, 2), pair(1, 3)], [21, 31]),
            ([pair(1, 4), pair(5, 2)], [41, 25]),
            ([pair(5, 2)], [25]),
        ):
            with engine.reserve(len(works)) as room:
                assert answers(await room.submit(works)) == expected
        await engine.close()
        assert calls == [("encode", 1), ("both", 2), ("encode", 1), ("both", 2)]

    run(scenario())


def test_the_engine_answers_from_the_cache_without_running() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        cache = ContentCache(ROOM)
        core = LocalCore(backend, 4, 4096, backend.clock, cache=cache)
        engine = Engine(core, 64, backend.clock)
        await engine.start()
        first = await submit(engine, "a1 a2")
        again = await submit(engine, "a2 a3 a1")
        await engine.close()
        assert answers(first) == [2, 4]
        assert answers(again) == [4, 6, 2]
        assert backend.calls == ["a 1 2", "a 3"]
        assert [result.shared for result in again] == [1, 0, 1]
        assert [result.batch_size for result in again] == [0, 1, 0]
        assert (cache.stats.hits, cache.stats.misses) == (2, 3)

    run(scenario())


def test_a_failed_answer_is_not_kept() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        core = LocalCore(backend, 4, 4096, backend.clock, cache=ContentCache(ROOM))
        engine = Engine(core, 64, backend.clock)
        await engine.start()
        backend.errors["a"] = ValueError("once")
        await asyncio.gather(submit(engine, "a1"), return_exceptions=True)
        backend.errors.clear()
        assert answers(await submit(engine, "a1")) == [2]
        await engine.close()

    run(scenario())


def test_a_model_that_has_gone_leaves_nothing() -> None:
    cache = ContentCache(ROOM)
    gone, other = (
        [
            replace(one, prepared=replace(one.prepared, owner=owner))
            for one in map(work, ("a1", "a2"))
        ]
        for owner in (object(), object())
    )
    for one in (*gone, *other):
        cache.put(one, Done({"answer": torch.tensor([1.0, 2.0])}, {}, 0.0))
    cache.forget(gone[0].prepared.owner)
    assert cache.stats.entries == 2
    assert not cache.recall(gone[0])
    assert cache.recall(other[0])
    assert cache.stats.bytes == 2 * (cache.stats.bytes // 2)
