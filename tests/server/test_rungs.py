"""Rungs of rankings in stages."""

from __future__ import annotations

from models.families.exits import Exits
from server import catalog
from server.rungs import ladder_to
from server.settings import Settings


def test_rungs_are_the_same_however_short_a_requests_texts_are() -> None:
    served = catalog.load_one(Settings().models_folder / "minilm-2d")
    assert isinstance(served.model, Exits)
    ladders = []
    for tokens in (5, 256):
        shapes = {"text": (tokens,)}
        best = served.finders.at(shapes, served.whole_outputs).find(["similarity"])
        ladders.append(ladder_to(served, best, "similarity", None, by_time=False))
    short, long = ([rung.subnet for rung in ladder.rungs] for ladder in ladders)
    assert short == long
    assert len(short) > 3


def test_nothing_goes_on_from_a_higher_rung_or_from_none() -> None:
    served = catalog.load_one(Settings().models_folder / "minilm-2d")
    best = served.finders.at({"text": (20,)}, served.whole_outputs).find(["similarity"])
    ladder = ladder_to(served, best, "similarity", None, by_time=False)
    last = len(ladder.rungs) - 1
    for before in (-1, last, last + 1):
        assert ladder.shared(last, before) == frozenset()
