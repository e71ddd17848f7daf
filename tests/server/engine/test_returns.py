from __future__ import annotations

import pytest

from server.engine.returns import Returns


def test_one_that_is_refused_comes_back_when_there_is_room() -> None:
    returns = Returns()
    assert returns.after_s("a", 100.0, 2.5, 1.0) == pytest.approx(2.5)
    assert returns.after_s("a", 200.0, 0.5, 1.0) == pytest.approx(0.5)  # the first has been back


def test_many_that_are_refused_together_come_back_one_after_the_other() -> None:
    returns = Returns()
    times = [returns.after_s("a", 100.0, 0.5, 0.012) for _ in range(400)]
    assert times == pytest.approx([0.5 + 0.01 * i for i in range(400)])
    assert returns.after_s("b", 100.0, 0.5, 0.012) == pytest.approx(0.5)


def test_nobody_is_told_to_wait_for_much_longer_than_a_minute() -> None:
    returns = Returns()
    times = [returns.after_s("a", 100.0, 1.0, 1.0) for _ in range(1000)]
    assert max(times) == pytest.approx(61.0)


def test_clients_unheard_of_for_longest_are_forgotten() -> None:
    returns = Returns()
    for _ in range(2):
        returns.after_s("a", 100.0, 0.0, 6.0)
    for number in range(1024):
        returns.after_s(f"b{number}", 100.0, 0.0, 6.0)
    assert returns.after_s("a", 100.0, 0.0, 6.0) == 0.0
