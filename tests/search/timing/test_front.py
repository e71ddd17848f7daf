from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.space import Value
from search.finders import Finders
from search.timing.front import ahead, front, hopeful
from search.timing.profile import LatencyProfile
from tests.search.toys import Necked, random_profile, random_table

SHAPES = {"query": (9, 1), "document": (20, 1)}


def test_only_weights_that_are_on_the_front_of_time_are_made_ahead() -> None:
    model = Necked(with_load=True)
    finders = Finders(model, random_table(model))
    finder = finders.at(SHAPES)
    profile: LatencyProfile = random_profile(finders.functions)
    points = list(front(finder, profile))
    found = ahead(model.space, points)
    taken = {(point.subnet["bits"],) for point in points}
    assert found.keys() == taken
    for choices, subnet in found.items():
        own = [p for p in points if (p.subnet["bits"],) == choices]
        assert subnet == max(own, key=lambda p: p.quality).subnet
    # Where fewer bits take a thousand times as long, nobody takes them.
    slow = profile.seconds.copy()
    for (takes, own_key), curve in profile.curves.items():
        if any(f", {bits}," in repr((takes, own_key)) for bits in (4, 8)):
            slow[curve] *= 1000
    profile = replace(profile, seconds=np.minimum(slow, 1e3))
    assert ahead(model.space, list(front(finder, profile))).keys() == {(32,)}


def test_weights_that_are_near_the_front_are_hoped_for_and_those_far_from_it_are_not() -> None:
    model = Necked(with_load=True)
    table = random_table(model, is_noisy=False)
    whole = [table.rows.index(row | {"bits": 32}) for row in table.rows]
    kept = {  # fewer bits keep nearly all
        task: replace(cells, value=cells.value[whole] * (1.001 if cells.lower_is_better else 0.999))
        for task, cells in table.cells.items()
    }
    for task, cells in kept.items():
        same = np.array(whole) == np.arange(len(whole))
        cells.value[same] = table.cells[task].value[same]
    finders = Finders(model, replace(table, cells=kept))
    finder, profile = finders.at(SHAPES), random_profile(finders.functions)
    hoped_for: dict[float, set[Value]] = {}
    for factor in (0.5, 1.1, 4.0):
        seconds = profile.seconds.copy()
        for (takes, key), curve in profile.curves.items():
            if isinstance(key, tuple) and key[0] == "encode" and key[2] != 32:
                like = profile.curves[takes, (*key[:2], 32, *key[3:])]
                seconds[curve] = factor * profile.seconds[like]
        slower = replace(profile, seconds=np.minimum(seconds, 1e3))
        points = list(front(finder, slower))
        there = {point.subnet["bits"] for point in points}
        found = {one.subnet["bits"] for one in hopeful(finder, model.space, slower, points)}
        assert not found & there
        hoped_for[factor] = found
        assert (factor < 1) == (len(there) > 1)
    assert hoped_for[1.1] == {4, 8}
    assert hoped_for[4.0] == set()
