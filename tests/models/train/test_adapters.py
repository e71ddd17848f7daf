"""Recipes that learn pairs: adapters on a trunk that stays, and one skill of an encoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from models.train.adapters import AdapterRecipe, train_adapters
from models.train.examples import Examples, Partners, Rated
from models.train.run import LOG_FILE
from models.train.skills import SkillRecipe, train_skill
from tests.conformance.fixtures.adapted import vectors
from tests.tiny_text import tiny_exits, token_rows

FIRST, SECOND = token_rows((5, 3, 8, 6, 4, 7)), token_rows((4, 6, 5, 7, 3, 8), seed=1)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / LOG_FILE).read_text().splitlines()]


def test_adapters_learn_each_their_own_and_nothing_else_changes(tmp_path: Path) -> None:
    model = vectors(tmp_path)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    data: dict[str, Examples] = {
        "legal": Partners(FIRST, SECOND),
        "code": Rated(FIRST, SECOND, torch.arange(len(FIRST)).float()),
    }
    recipe = AdapterRecipe(steps=200, batch_size=6, learning_rate=3e-3)
    train_adapters(model, data, recipe, tmp_path / "run")
    first, last = losses(tmp_path / "run")
    assert last < first
    for name, one in model.state_dict().items():
        if name.startswith("low."):
            assert torch.equal(one[1], before[name][1])  # nobody has taught "medical"
        else:
            assert torch.equal(one, before[name])
    assert not torch.equal(model.low[0]["query"].up[0], before["low.0.query.up"][0])  # type: ignore[index]


def test_a_skill_is_learned_by_all_layers(tmp_path: Path) -> None:
    model = tiny_exits()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    recipe = SkillRecipe(steps=200, batch_size=6, learning_rate=1e-3)
    train_skill(model, Partners(FIRST, SECOND), recipe, tmp_path)
    first, last = losses(tmp_path)
    assert last < first
    changed = {
        name for name, one in model.state_dict().items() if not torch.equal(one, before[name])
    }
    assert changed
    assert all(name.startswith("layers.") for name in changed)
