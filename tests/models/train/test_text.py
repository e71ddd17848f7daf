from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.families.exits import Exits
from models.nn.ragged import Ragged
from models.train import text as recipe_module
from models.train.examples import Distances, Examples, Partners, Rated
from models.train.projections import fit_projections
from models.train.text import (
    Strategy,
    TextRecipe,
    cells,
    pooled_exits,
    train,
    train_step,
)
from tests.tiny_text import embed, tiny_exits, token_rows

RECIPE = TextRecipe(steps=6, batch_size=8, learning_rate=1e-3, projection_rate=1e-2)
DIMS = (4, 8, 16)


def model_with_projections() -> Exits:
    return tiny_exits("post", projection=16, dims=DIMS, depths=(1, 2, 4))


def many_rows(num_rows: int = 64, seed: int = 1) -> list[Tensor]:
    return token_rows([2 + (7 * i) % 9 for i in range(num_rows)], seed)


def distances(num_rows: int = 64) -> Distances:
    rows = many_rows(num_rows)
    teacher = tiny_exits("post", dims=DIMS)
    return Distances(rows, torch.cat([embed(teacher, [row], 4, 16) for row in rows]))


def partners() -> Partners:
    rows = many_rows(32)
    return Partners(rows[:16], rows[16:])


def rated() -> Rated:
    rows = many_rows(32)
    return Rated(rows[:16], rows[16:], torch.arange(16) % 5)


def test_the_strategies_choose_the_cells_of_their_papers() -> None:
    model = tiny_exits("post", dims=DIMS, depths=(1, 2, 4))
    full = (4, 16, 1.0)
    for seed in range(20):
        rng = Random(seed)
        first, *others = cells(model, TextRecipe(strategy="random"), rng)
        assert first == full
        # One layer before the last and one width: alone, and with the other whole.
        depth = others[0][0]
        assert depth < 4
        assert {cell[0] for cell in others} <= {depth, 4}
        assert others[0][:2] == (depth, 16)
    pairs = ((1, 4), (2, 8), (4, 16))
    found = cells(model, TextRecipe(strategy="pairs", pairs=pairs), Random(0))
    assert found == [full, (1, 4, 1.0), (2, 8, 1.0)]
    found = cells(model, TextRecipe(strategy="hierarchical"), Random(0))
    assert {cell[:2] for cell in found} >= {(1, 16), (2, 16), (4, 16)}
    assert {weight for depth, _, weight in found if depth == 1} == {0.25}
    assert {dim for depth, dim, _ in found if depth == 4} == set(DIMS)  # every one in each step
    assert len(found) == 1 + 2 + 2 + 2
    only = TextRecipe(strategy="hierarchical", only_last=True)
    assert cells(model, only, Random(0)) == [full]


def test_one_pass_gives_what_every_exit_gives_alone() -> None:
    model = model_with_projections()
    rows = token_rows()
    groups, units = model.widths(model.space.largest)
    for depth, pooled in pooled_exits(model, Ragged.pack(rows), groups, units).items():
        alone = torch.cat([embed(model, [row], depth, 16) for row in rows])
        torch.testing.assert_close(F.normalize(pooled, dim=1), alone, atol=1e-5, rtol=0)


def test_projections_start_near_the_last_exit_and_leave_it_alone() -> None:
    model = model_with_projections()
    with torch.no_grad():
        for depth in (1, 2, 4):  # the identity: the public model as it is
            model.projection(depth).weight.copy_(torch.eye(16))
            model.projection(depth).bias.zero_()
    rows = many_rows()
    before = {depth: embed(model, rows, depth, 16) for depth in (1, 2, 4)}
    teacher = fit_projections(model, rows)
    after = {depth: embed(model, rows, depth, 16) for depth in (1, 2, 4)}
    torch.testing.assert_close(teacher, before[4], atol=1e-5, rtol=0)
    torch.testing.assert_close(after[4], before[4])
    for depth in (1, 2):
        near, far = ((v[depth] - teacher).square().mean() for v in (after, before))
        assert near < 0.5 * far


@pytest.mark.parametrize("strategy", ["random", "pairs", "hierarchical"])
@pytest.mark.parametrize("examples", [distances(), partners(), rated()])
def test_training_lowers_the_loss(strategy: Strategy, examples: Examples, tmp_path: Path) -> None:
    model = model_with_projections()
    pairs = ((1, 8), (2, 8), (4, 16))
    recipe = replace(RECIPE, strategy=strategy, pairs=pairs, steps=25, batch_size=16, narrow=1)
    before = loss_of(model, examples, recipe)
    train(model, [(examples, 1.0)], recipe, tmp_path)
    assert loss_of(model, examples, recipe) < 0.95 * before


def test_bfloat16_gives_nearly_the_same_gradients() -> None:
    gradients = []
    for bfloat16 in (False, True):
        model = model_with_projections().requires_grad_(True)
        train_step(model, partners(), replace(RECIPE, bfloat16=bfloat16), Random(0))
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        assert {gradient.dtype for gradient in found} == {torch.float32}
        gradients.append(torch.cat(found))
    exact, rounded = gradients
    assert not torch.equal(exact, rounded)
    assert F.cosine_similarity(exact, rounded, dim=0) > 0.99


def loss_of(model: Exits, examples: Examples, recipe: TextRecipe) -> float:
    clone = copy.deepcopy(model).requires_grad_(True)
    return sum(train_step(clone, examples, recipe, Random(seed)) for seed in range(5))


def test_the_control_trains_the_last_exit_only(tmp_path: Path) -> None:
    model = model_with_projections()
    before = copy.deepcopy(model.state_dict())
    train(model, [(distances(16), 1.0)], replace(RECIPE, only_last=True), tmp_path)
    after = model.state_dict()
    assert torch.equal(after["exits.1.projection.weight"], before["exits.1.projection.weight"])
    assert not torch.equal(after["exits.4.projection.weight"], before["exits.4.projection.weight"])


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_module, "SAVE_EVERY", 2)
    data: list[tuple[Examples, float]] = [(distances(16), 0.7), (partners(), 0.3)]
    whole = model_with_projections()
    train(whole, data, RECIPE, tmp_path / "whole")

    calls = 0

    def stop_in_fourth_step(*args: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return train_step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(recipe_module, "train_step", stop_in_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        train(model_with_projections(), data, RECIPE, tmp_path / "cut")
    monkeypatch.setattr(recipe_module, "train_step", train_step)
    resumed = model_with_projections()
    train(resumed, data, RECIPE, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, atol=1e-6, rtol=0)


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    data: list[tuple[Examples, float]] = [(partners(), 1.0)]
    train(model_with_projections(), data, replace(RECIPE, steps=1), tmp_path)
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(model_with_projections(), data, RECIPE, tmp_path)
