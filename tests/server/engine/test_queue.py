from __future__ import annotations

from random import Random

from server.engine.queue import BatchQueue


def queue_of(items: str, max_batch_size: int = 8) -> BatchQueue[str]:
    """Fill a queue with items such as ``a1``, whose key is their letter."""
    queue: BatchQueue[str] = BatchQueue(max_batch_size, 100)
    for item in items.split():
        queue.push(item, item[0])
    return queue


def batches(queue: BatchQueue[str]) -> list[str]:
    found = []
    while batch := queue.next_batch():
        found.append(" ".join(batch))
    return found


def test_an_empty_queue_has_no_batch() -> None:
    queue = queue_of("")
    assert len(queue) == 0
    assert queue.next_batch() == []


def test_items_of_equal_key_leave_together_and_the_oldest_goes_first() -> None:
    queue = queue_of("b1 a1 b2 c1 a2")
    assert len(queue) == 5
    assert batches(queue) == ["b1 b2", "a1 a2", "c1"]
    assert len(queue) == 0


def test_a_batch_takes_the_oldest_of_its_key_up_to_the_limit() -> None:
    # After a1 and a2 have left, b1 is older than a3.
    assert batches(queue_of("a1 a2 b1 a3 b2", 2)) == ["a1 a2", "b1 b2", "a3"]


def test_a_batch_stops_before_its_tokens_exceed_the_limit() -> None:
    queue = queue_of("")
    for item, num_tokens in (("a1", 60), ("a2", 40), ("a3", 1), ("a4", 500), ("a5", 100)):
        queue.push(item, "a", num_tokens)
    assert batches(queue) == ["a1 a2", "a3", "a4", "a5"]


def test_the_head_waits_for_one_batch_only_however_many_of_another_key_arrive() -> None:
    queue = queue_of("a1 b1", 2)
    for i in range(2, 50):
        queue.push(f"a{i}", "a")
    assert queue.next_batch() == ["a1", "a2"]
    assert queue.next_batch() == ["b1"]


def test_discarded_items_do_not_run() -> None:
    queue = queue_of("a1 b1 a2")
    queue.discard("a1")
    assert batches(queue) == ["b1", "a2"]


def test_discarding_what_is_not_there_changes_nothing() -> None:
    queue = queue_of("a1 a2")
    queue.discard("a3")
    assert queue.next_batch() == ["a1", "a2"]
    queue.discard("a1")
    assert batches(queue) == []


def test_a_key_that_ran_dry_can_come_back() -> None:
    queue = queue_of("a1 b1")
    queue.discard("a1")
    queue.push("a2", "a")
    assert batches(queue) == ["b1", "a2"]


def test_any_mix_of_operations_agrees_with_a_plain_list() -> None:
    rng = Random(0)
    for _ in range(50):
        size = rng.randint(1, 4)
        queue, plain = queue_of("", size), list[str]()
        for i in range(60):
            action = rng.random()
            if action < 0.6:
                item = f"{rng.choice('abc')}{i}"
                queue.push(item, item[0])
                plain.append(item)
            elif action < 0.8 and plain:
                item = rng.choice(plain)
                queue.discard(item)
                plain.remove(item)
            else:
                expected = [item for item in plain if item[0] == plain[0][0]][:size]
                assert queue.next_batch() == expected
                plain = [item for item in plain if item not in expected]
            assert len(queue) == len(plain)
