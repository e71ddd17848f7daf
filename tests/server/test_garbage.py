"""What collections look through."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from server import garbage


class Node:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Leave nothing frozen to other tests."""
    yield
    gc.unfreeze()


def test_what_lives_is_not_looked_through_again() -> None:
    kept = Node()
    garbage.settle()
    assert gc.get_freeze_count() > 1000
    assert not any(one is kept for one in gc.get_objects())


def test_what_has_gone_is_freed_though_it_was_settled() -> None:
    kept = Node()
    gone = weakref.ref(kept)
    garbage.settle()
    del kept
    gc.collect()
    assert gone() is not None
    garbage.collect()
    assert gone() is None
    assert gc.get_freeze_count() > 1000  # as before


def test_where_nothing_was_settled_nothing_is() -> None:
    gc.unfreeze()
    garbage.collect()
    assert not gc.get_freeze_count()
