from __future__ import annotations

import asyncio

import torch

from models.core import KeyPath
from server.engine.cache import ContentCache
from server.engine.engine import Engine
from server.engine.work import Work
from tests.server.engine.fake import FakeBackend, answers, submit, work
from tests.server.samples import run

ROOM = 100_000


def keyed(cache: ContentCache, name: str) -> tuple[object, Work]:
    one = work(name)
    return cache.key(one), one


def outputs(*values: float) -> dict[KeyPath, torch.Tensor]:
    return {("a",): torch.tensor(values)}


def test_equal_inputs_of_equal_plans_have_equal_keys_and_no_others() -> None:
    cache = ContentCache(ROOM)
    assert keyed(cache, "a1")[0] == keyed(cache, "a1")[0]
    assert len({keyed(cache, name)[0] for name in ("a1", "a2", "b1")}) == 3


def test_without_room_nothing_is_kept_or_counted() -> None:
    cache = ContentCache(0)
    assert keyed(cache, "a1")[0] is None
    assert cache.stats == (0, 0, 0, 0)


def test_what_was_not_used_for_longest_goes_first_and_bytes_are_bounded() -> None:
    cache = ContentCache(3 * 900)
    for name in ("x", "y", "z"):
        cache.put((name,), outputs(1, 2, 3))
    assert cache.get(("x",)) is not None
    cache.put(("w",), outputs(1, 2, 3))
    found = [name for name in ("w", "x", "y", "z") if cache.get((name,)) is not None]
    assert found == ["w", "x", "z"]
    assert cache.stats.entries == 3
    assert cache.stats.bytes <= 3 * 900
    assert (cache.stats.hits, cache.stats.misses) == (4, 1)


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = ContentCache(2000)
    cache.put(("small",), outputs(1))
    cache.put(("large",), outputs(*range(1000)))
    assert cache.get(("large",)) is None
    assert cache.get(("small",)) is not None


def test_an_entry_that_is_written_again_counts_once() -> None:
    cache = ContentCache(ROOM)
    for _ in range(3):
        cache.put(("x",), outputs(1, 2))
    assert cache.stats.entries == 1
    cache.put(("y",), outputs(1, 2))
    assert cache.stats.bytes == 2 * (cache.stats.bytes // 2)


def test_a_kept_row_does_not_hold_its_batch() -> None:
    cache = ContentCache(ROOM)
    batch = torch.arange(1000.0)
    cache.put(("x",), {("a",): batch[:2]})
    found = cache.get(("x",))
    assert found is not None
    assert found[("a",)].untyped_storage().nbytes() == 8


def test_the_engine_answers_from_the_cache_without_running() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        cache = ContentCache(ROOM)
        engine = Engine(backend, 4, 4096, 64, backend.clock, cache=cache)
        engine.start()
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
        engine = Engine(backend, 4, 4096, 64, backend.clock, cache=ContentCache(ROOM))
        engine.start()
        backend.errors["a"] = ValueError("once")
        await asyncio.gather(submit(engine, "a1"), return_exceptions=True)
        backend.errors.clear()
        assert answers(await submit(engine, "a1")) == [2]
        await engine.close()

    run(scenario())


def test_a_model_that_has_gone_leaves_nothing() -> None:
    cache = ContentCache(ROOM)
    gone, other = object(), object()
    for model in (gone, other):
        for content in "ab":
            cache.put((id(model), content), outputs(1, 2))
    cache.forget(gone)
    assert cache.stats.entries == 2
    assert cache.get((id(gone), "a")) is None
    assert cache.get((id(other), "a")) is not None
    assert cache.stats.bytes == 2 * (cache.stats.bytes // 2)
