from __future__ import annotations

from collections import Counter
from math import inf
from random import Random

from server.engine.schedule import Scheduler, Ticket


def queue_of(items: str, max_batch_size: int = 8) -> Scheduler[str]:
    """Fill a queue with items such as ``a1``, whose key is their letter."""
    queue: Scheduler[str] = Scheduler(max_batch_size, 100)
    for item in items.split():
        queue.push(item, Ticket(item[0]))
    return queue


def batches(queue: Scheduler[str]) -> list[str]:
    found = []
    while batch := queue.next_batch().batch:
        found.append(" ".join(batch))
    return found


def test_an_empty_queue_has_no_batch() -> None:
    queue = queue_of("")
    assert len(queue) == 0
    assert queue.next_batch() == ([], [])


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
        queue.push(item, Ticket("a", num_tokens))
    assert batches(queue) == ["a1 a2", "a3", "a4", "a5"]


def test_the_head_waits_for_one_batch_only_however_many_of_another_key_arrive() -> None:
    queue = queue_of("a1 b1", 2)
    for i in range(2, 50):
        queue.push(f"a{i}", Ticket("a"))
    assert queue.next_batch().batch == ["a1", "a2"]
    assert queue.next_batch().batch == ["b1"]


def test_discarded_items_do_not_run() -> None:
    queue = queue_of("a1 b1 a2")
    queue.discard("a1")
    queue.discard("a1")
    assert batches(queue) == ["b1", "a2"]


def test_a_key_that_ran_dry_can_come_back() -> None:
    queue = queue_of("a1 b1")
    queue.discard("a1")
    queue.push("a2", Ticket("a"))
    assert batches(queue) == ["b1", "a2"]


def test_the_earliest_deadline_goes_first_and_what_has_none_goes_last() -> None:
    queue = queue_of("a0")
    for item, deadline in (("a1", 9.0), ("b1", 3.0), ("a2", 5.0), ("b2", 7.0)):
        queue.push(item, Ticket(item[0], deadline=deadline))
    assert batches(queue) == ["b1 b2", "a2 a1 a0"]


def test_what_has_expired_is_given_back_apart() -> None:
    queue = queue_of("")
    for item, deadline in (("a1", 1.0), ("a2", 3.0), ("b1", 2.0)):
        queue.push(item, Ticket(item[0], deadline=deadline))
    assert queue.next_batch(now=2.5) == (["a2"], ["a1", "b1"])
    assert len(queue) == 0


def test_a_lower_class_waits_but_fills_up_batches_of_its_key() -> None:
    queue = queue_of("", 3)
    for item, priority in (("a1", 1), ("b1", 1), ("a2", 0), ("c1", 0)):
        queue.push(item, Ticket(item[0], priority=priority))
    assert batches(queue) == ["a2 a1", "c1", "b1"]


def test_a_batch_ends_before_the_item_with_which_a_deadline_would_not_hold() -> None:
    queue = queue_of("a1 a2 a3 a4")
    asked: list[str] = []

    def fits(item: str) -> bool:
        asked.append(item)
        return item != "a3"

    assert queue.next_batch(fits=fits).batch == ["a1", "a2"]
    assert asked == ["a1", "a2", "a3"]
    assert queue.next_batch(fits=lambda item: False).batch == ["a3"]  # the head always goes


def test_clients_share_by_flops_and_weight_while_both_wait() -> None:
    rng = Random(0)
    queue: Scheduler[tuple[str, int]] = Scheduler(4, 10_000)
    flops = {"small": 1.0, "large": 10.0, "heavy": 5.0}
    weight = {"small": 1.0, "large": 1.0, "heavy": 3.0}
    cost: dict[tuple[str, int], float] = {}
    for i in range(3000):
        for client in flops:
            item = (client, i)
            cost[item] = flops[client] * rng.uniform(0.5, 1.5)
            ticket = Ticket(
                rng.choice("ab"), flops=cost[item], client=client, weight=weight[client]
            )
            queue.push(item, ticket)
    spent: Counter[str] = Counter()
    while sum(spent.values()) < 6000:
        for item in queue.next_batch().batch:
            spent[item[0]] += cost[item]  # type: ignore[assignment]  # a counter of floats
    # Batches of one key bend the shares a little; over time they come out.
    assert abs(spent["large"] / spent["small"] - 1) < 0.1
    assert abs(spent["heavy"] / spent["small"] - 3) < 0.3


def test_a_client_alone_gets_everything_and_saves_nothing_up() -> None:
    queue: Scheduler[str] = Scheduler(1, 100)
    for i in range(50):
        queue.push(f"x{i}", Ticket("a", client="x"))
    assert [queue.next_batch().batch[0] for _ in range(40)] == [f"x{i}" for i in range(40)]
    for i in range(10):
        queue.push(f"y{i}", Ticket("a", client="y"))
    clients = [queue.next_batch().batch[0][0] for _ in range(20)]
    for end in range(2, 21, 2):
        assert abs(clients[:end].count("x") - clients[:end].count("y")) <= 2


def test_any_mix_of_operations_agrees_with_a_plain_list() -> None:
    rng = Random(0)
    for _ in range(50):
        size = rng.randint(1, 4)
        queue, plain = queue_of("", size), list[tuple[float, int, str]]()
        for i in range(60):
            action = rng.random()
            if action < 0.6:
                item, deadline = f"{rng.choice('abc')}{i}", float(rng.randint(1, 5))
                queue.push(item, Ticket(item[0], deadline=deadline))
                plain.append((deadline, i, item))
            elif action < 0.8 and plain:
                gone = rng.choice(plain)
                queue.discard(gone[2])
                plain.remove(gone)
            else:
                order = [item for _, _, item in sorted(plain)]
                expected = [item for item in order if item[0] == order[0][0]][:size]
                assert queue.next_batch().batch == expected
                plain = [entry for entry in plain if entry[2] not in expected]
            assert len(queue) == len(plain)


def test_requests_of_one_client_take_turns_and_single_items_keep_their_order() -> None:
    queue: Scheduler[str] = Scheduler(1, 100)
    for i in range(6):
        queue.push(f"bulk{i}", Ticket("a"), "bulk")
    for name in ("x", "y"):
        queue.push(name, Ticket("a"), name)
    assert batches(queue) == ["bulk0", "x", "y", "bulk1", "bulk2", "bulk3", "bulk4", "bulk5"]


def test_a_request_that_comes_later_does_not_wait_for_all_items_of_a_large_one() -> None:
    queue: Scheduler[str] = Scheduler(1, 100)
    for i in range(100):
        queue.push(f"bulk{i}", Ticket("a"), "bulk")
    for _ in range(10):
        queue.next_batch()
    queue.push("late", Ticket("a"), "late")
    assert "late" in [queue.next_batch().batch[0] for _ in range(2)]


def test_a_large_request_is_not_starved_by_a_stream_of_small_ones() -> None:
    queue: Scheduler[str] = Scheduler(1, 100)
    for i in range(10):
        queue.push(f"bulk{i}", Ticket("a"), "bulk")
    taken: list[str] = []
    for i in range(40):  # one arrives for each that leaves
        queue.push(f"small{i}", Ticket("a"), f"small{i}")
        taken += queue.next_batch().batch
    assert 5 <= sum(item.startswith("bulk") for item in taken) < 10
    small = [item for item in taken if item.startswith("small")]
    assert small == [f"small{i}" for i in range(len(small))]


def test_items_that_are_discarded_leave_no_trace_of_their_request() -> None:
    queue: Scheduler[str] = Scheduler(1, 100)
    for i in range(3):
        queue.push(f"a{i}", Ticket("a"), "a")
    queue.push("b", Ticket("a"), "b")
    for i in range(3):
        queue.discard(f"a{i}")
    queue.push("a3", Ticket("a"), "a")
    assert batches(queue) == ["b", "a3"]
    assert len(queue) == 0


def test_a_share_that_rounding_makes_too_small_for_the_head_costs_no_turn() -> None:
    weight = 49.0
    assert (1.0 / weight) * weight < 1.0
    queue: Scheduler[str] = Scheduler(1, 100)
    for item in ("a1", "a2"):
        queue.push(item, Ticket("a", flops=1.0, client="one", weight=weight))
    queue.push("b1", Ticket("b", flops=1.0, client="two", weight=weight))
    assert Counter(batches(queue)) == Counter(["a1", "a2", "b1"])


def test_what_only_makes_an_answer_better_goes_after_what_is_due_and_still_expires() -> None:
    queue: Scheduler[str] = Scheduler(1, 100)
    queue.push("better", Ticket("a", deadline=5.0, due=inf))
    queue.push("late", Ticket("a", deadline=9.0))
    queue.push("soon", Ticket("a", deadline=6.0))
    assert [queue.next_batch(1.0).batch for _ in range(2)] == [["soon"], ["late"]]
    assert queue.next_batch(5.5).expired == ["better"]
