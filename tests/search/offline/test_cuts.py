"""The knapsack over forms against brute force, and trials around it."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
import torch

from models.elasticize.damage import Unexplained
from models.families.pruned import LayerForm
from models.nn.transformer import layers_of
from search.offline.cuts import (
    BestCut,
    Candidate,
    Forms,
    as_whole,
    cheapest_damage,
    macs_of,
    menu,
    probes,
    try_more,
    weights_of,
)
from search.quality.table import FloatArray
from tests.tiny_text import tiny_exits

LAYERS = layers_of(tiny_exits("post"))


def random_menus(rng: Random) -> list[list[Candidate]]:
    menus = []
    for _ in range(3):
        own = [
            Candidate(
                LayerForm("narrow", i + 1, 5), rng.randrange(5, 100), rng.random(), rng.random(), 0
            )
            for i in range(5)
        ]
        linear = Candidate(LayerForm("linear"), 4, 0, 0, rng.random())
        menus.append([linear, *own, Candidate(LayerForm("narrow", 9, 9), 120, 0, 0, 0)])
    return menus


def damage(forms: Forms, menus: list[list[Candidate]], weights: FloatArray) -> tuple[float, int]:
    lost, macs = 0.0, 0
    for form, own, weight in zip(forms, menus, weights, strict=True):
        one = own[-1] if form.kind == "whole" else next(c for c in own if c.form == form)
        lost += float(np.dot([one.heads, one.units, one.linear], weight))
        macs += one.macs
    return lost, macs


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_of_least_damage_is_found_within_the_budget(seed: int) -> None:
    rng = Random(seed)
    menus = random_menus(rng)
    weights = np.array([[rng.random() for _ in range(3)] for _ in menus])
    most = rng.randrange(40, 300)
    forms = cheapest_damage(menus, weights, most)
    lost, macs = damage(forms, menus, weights)
    assert macs <= most
    # Costs are rounded up to a thousandth of the budget, so a cut that just fits may be missed.
    best = min(
        damage(tuple(c.form for c in cut), menus, weights)[0]
        for cut in itertools.product(*menus)
        if sum(c.macs for c in cut) <= most * (1 - len(menus) / 1000)
    )
    assert lost <= best + 1e-9


def test_a_budget_below_all_forms_is_refused() -> None:
    menus = random_menus(Random(0))
    with pytest.raises(ValueError, match=r"at most 11 MACs are asked for, the least .* 12"):
        cheapest_damage(menus, np.ones((3, 3)), 11)


def test_only_first_layers_without_loss_are_those_of_the_model() -> None:
    menus = random_menus(Random(1))
    full, narrow = LayerForm("narrow", 9, 9), LayerForm("narrow", 1, 5)
    assert as_whole((full, narrow, full), menus) == (LayerForm("whole"), narrow, full)
    assert as_whole((full, full, full), menus) == (LayerForm("whole"),) * 3


def test_a_menu_prices_what_the_family_counts() -> None:
    left = Unexplained(torch.linspace(0.5, 0.1, 4), torch.linspace(0.4, 0.0, 24), 0.3)
    layer = LAYERS[0]
    found = {candidate.form: candidate for candidate in menu(layer, left, 7)}
    assert found[LayerForm("narrow", 2, 12)].macs == layer.macs(2, 12, 7)
    assert found[LayerForm("linear")].macs == 7 * 16 * 16
    assert found[LayerForm("narrow", 4, 24)][2:] == (0, 0, 0)
    forms = (LayerForm("narrow", 2, 12), LayerForm("linear"), LayerForm("whole"))
    expected = [layer.macs(2, 12, 7), 7 * 16 * 16, layer.macs(4, 24, 7)]
    assert macs_of(forms, LAYERS[:3], 7) == sum(expected)


def test_weights_give_back_what_probes_measured() -> None:
    left = [
        Unexplained(torch.linspace(0.5, 0.1, 4), torch.linspace(0.4, 0.0, 24), 0.3) for _ in LAYERS
    ]
    tried = probes(LAYERS)
    damages = np.arange(1.0, 1 + 3 * len(LAYERS)).reshape(-1, 3)
    weights = weights_of(tried, damages, left)
    for i, own in enumerate(left):
        candidates = {candidate.form: candidate for candidate in menu(LAYERS[i], own, 5)}
        for j, form in enumerate(tried[i]):
            lost = dict(zip(("heads", "units", "linear"), weights[i], strict=True))
            if form in candidates:
                one = candidates[form]
                total = one.heads * lost["heads"] + one.units * lost["units"]
                total += one.linear * lost["linear"]
                assert total == pytest.approx(damages[i, j], rel=1e-4)


def test_a_trial_keeps_the_better_cut_within_the_budget_and_measures_none_twice() -> None:
    menus = random_menus(Random(3))
    rng = np.random.default_rng(0)
    weights = np.ones((3, 3))
    most = 150.0
    seen: dict[Forms, float] = {}
    draws = Random(5)

    def measure(forms: Forms) -> float:
        assert forms not in seen
        seen[forms] = draws.random()
        return seen[forms]

    first = cheapest_damage(menus, weights, most)
    best = BestCut(first, measure(first), weights)
    for _ in range(30):
        best = try_more(best, menus, most, measure, seen.__contains__, rng)
    assert len(seen) > 3
    assert best.score == max(seen.values()) == seen[best.forms]
    assert best.trials == len(seen)
    assert all(damage(forms, menus, weights)[1] <= most for forms in seen)
