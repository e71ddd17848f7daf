from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from models.elasticize.streams import Stack
from models.families.pruned import Pruned
from models.nn.ragged import Ragged
from models.train.cuts import (
    CutsRecipe,
    cut_loss,
    draw_alike,
    draw_cuts,
    train_cuts,
    train_step,
)
from models.train.run import LOG_FILE
from tests.conformance.fixtures.pruned import tiny_pruned
from tests.tiny_text import write_tokenizer

RECIPE = CutsRecipe(steps=60, batch_size=8, learning_rate=3e-3)


def some_texts(count: int = 64) -> list[Tensor]:
    rng = Random(0)
    return [
        torch.tensor([rng.randrange(5, 50) for _ in range(rng.randint(3, 9))]) for _ in range(count)
    ]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def made(tokenizer: Path) -> Pruned:
    model = tiny_pruned()
    model.attach(tokenizer)
    return model


@pytest.fixture
def model(tokenizer: Path) -> Pruned:
    return made(tokenizer)


def loss_of(model: Pruned, keep: float, texts: list[Tensor]) -> float:
    batch, stack = Ragged.pack(texts), Stack(model.base)
    with torch.no_grad():
        entry = stack.enter(batch)
        found = stack.leave(model.through(keep, entry))
        return cut_loss(found, stack.leave(stack.through(entry)), RECIPE.similarity).item()


def test_cuts_come_nearer_to_the_whole_which_stays(model: Pruned, tmp_path: Path) -> None:
    texts = some_texts()
    taught, unseen = texts[:48], texts[48:]
    keeps = [keep for keep in model.config.keep if 0 < keep < 1]
    before = {keep: loss_of(model, keep, unseen) for keep in keeps}
    kept = {name: t.clone() for name, t in model.base.state_dict().items()}
    train_cuts(model, taught, RECIPE, tmp_path)
    for keep in keeps:
        assert loss_of(model, keep, unseen) < 0.7 * before[keep]
    for name, tensor in model.base.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], atol=0, rtol=0)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_interrupted_run_ends_as_one_that_was_not(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.train.cuts.SAVE_EVERY", 3)
    recipe, texts = replace(RECIPE, steps=9), some_texts()
    whole, resumed = made(tokenizer), made(tokenizer)
    train_cuts(whole, texts, recipe, tmp_path / "whole")

    def stop(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    calls: list[int] = []
    step = train_step
    monkeypatch.setattr("models.train.cuts.train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train_cuts(resumed, texts, recipe, tmp_path / "resumed")
    monkeypatch.setattr("models.train.cuts.train_step", step)
    resumed = made(tokenizer)
    train_cuts(resumed, texts, recipe, tmp_path / "resumed")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor)
    lines = (tmp_path / "resumed" / LOG_FILE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9]
    with pytest.raises(ValueError, match="another recipe"):
        train_cuts(made(tokenizer), texts, replace(recipe, seed=1), tmp_path / "resumed")


def test_cuts_that_keep_less_are_drawn_more_often() -> None:
    rng = Random(0)
    drawn = [one for _ in range(500) for one in draw_cuts((0.2, 0.5, 0.8), 2, rng)]
    counts = [drawn.count(keep) for keep in (0.2, 0.5, 0.8)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] > 0
    assert sorted(draw_cuts((0.2, 0.5), 3, rng)) == [0.2, 0.5]


def test_a_batch_is_of_texts_of_about_one_length() -> None:
    ordered = [torch.zeros(length) for length in range(2000)]
    rng = Random(0)
    batches = [[len(text) for text in draw_alike(ordered, 4, rng)] for _ in range(50)]
    assert all(len(set(batch)) == 4 and max(batch) - min(batch) < 4 * 32 for batch in batches)
    assert min(map(min, batches)) < 200
    assert max(map(max, batches)) > 1800
    assert len(draw_alike(ordered[:5], 4, rng)) == 4


def test_bfloat16_gives_gradients_of_nearly_the_same_direction(model: Pruned) -> None:
    batch, found = Ragged.pack(some_texts(16)), []
    own = list(model.forms.parameters())
    model.requires_grad_(False)
    for parameter in own:
        parameter.requires_grad_(True)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled):
            train_step(model, Stack(model.base), batch, model.config.keep[:1], 5.0)
        found.append(torch.cat([p.grad.flatten() for p in own if p.grad is not None]))
        for parameter in own:
            parameter.grad = None
    assert torch.cosine_similarity(found[0], found[1], dim=0) > 0.99


def test_the_loss_is_of_vectors_and_of_similarities() -> None:
    whole = torch.eye(3)[:2]
    found = torch.stack([whole[0], whole[0]])
    # The second vector is at a right angle to its aim; of the four similarities two are 1, not 0,
    # among its own, and across one is 0 instead of 1 and one 1 instead of 0.
    assert cut_loss(found, whole, 0.0).item() == pytest.approx(0.5)
    assert cut_loss(found, whole, 2.0).item() == pytest.approx(0.5 + 2 * (0.5 + 0.5))
    assert cut_loss(whole, whole, 5.0).item() == pytest.approx(0)


@pytest.mark.parametrize(
    ("name", "value", "least"), [("steps", 0, 1), ("batch_size", 1, 2), ("cuts", 0, 1)]
)
def test_a_recipe_that_makes_no_sense_is_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be {least} or more"):
        CutsRecipe(**{name: value})  # type: ignore[arg-type]  # names of whole numbers alone


def test_too_few_texts_are_refused(model: Pruned, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 texts are fewer than batch_size=8"):
        train_cuts(model, some_texts(7), RECIPE, tmp_path)
