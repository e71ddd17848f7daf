from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.finders import Finders
from search.timing.front import ahead, front
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
