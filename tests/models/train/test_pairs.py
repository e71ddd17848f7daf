from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F

from models.families.pairs import DOCUMENT, INTERACTIONS, QUERY, SCORE, Interaction, Pairs
from models.nn.ragged import Ragged
from models.train.pairs import RankedTexts, draw, ranking_loss, scores_at_every_exit, train_pairs
from models.train.pairs_recipe import Lesson, PairsRecipe
from tests.conformance.fixtures.pairs import pairs
from tests.walking import answers_of

RECIPE = PairsRecipe(
    steps=20, queries=4, hard=2, others=1, learning_rate=1e-3, head_rate=1e-2, teacher=0.0
)


@pytest.fixture
def model(tmp_path: Path) -> Pairs:
    return pairs(tmp_path)


def material(count: int = 12) -> RankedTexts:
    """Return queries whose right document has the query's word."""
    generator = torch.Generator().manual_seed(0)
    words = torch.arange(count) + 8
    documents = [torch.tensor([2, int(w), int(w), 3]) for w in words]
    vectors = F.normalize(torch.randn(count, 8, generator=generator), dim=1)
    return RankedTexts(
        [torch.tensor([2, int(w), 3]) for w in words],
        documents,
        [[i] for i in range(count)],
        [[(i + 1) % count, (i + 2) % count] for i in range(count)],
        vectors,
        vectors,
    )


def test_every_way_learns_and_an_interrupted_run_goes_on(model: Pairs, tmp_path: Path) -> None:
    data = [(material(), 1.0)]
    batch = {
        QUERY: Ragged.pack([data[0][0].queries[i] for i in range(12) for _ in range(3)]),
        DOCUMENT: Ragged.pack(
            [data[0][0].documents[(i + k) % 12] for i in range(12) for k in range(3)]
        ),
    }

    labels = torch.tensor([[True, False, False]] * 12)

    def losses() -> dict[str, float]:
        with torch.no_grad():
            found = scores_at_every_exit(model, INTERACTIONS, batch)
            return {
                way: ranking_loss(
                    {d: own[d].view(12, 3) for d in own}, labels, torch.zeros(12, 3), RECIPE
                ).item()
                for way, own in found.items()
            }

    before = losses()
    train_pairs(model, data, RECIPE, tmp_path / "run")
    after = losses()
    assert all(after[way] < before[way] for way in after), (before, after)
    again = pairs(tmp_path)
    train_pairs(again, data, RECIPE, tmp_path / "run")  # nothing is left to do
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="another recipe"):
        train_pairs(again, data, replace(RECIPE, steps=21), tmp_path / "run")


@pytest.mark.parametrize(("lesson", "learns"), [("bi-to-cross", "cross"), ("cross-to-bi", "bi")])
def test_one_way_learns_the_other_ones_scores_without_labels(
    model: Pairs, tmp_path: Path, lesson: Lesson, learns: Interaction
) -> None:
    with torch.no_grad():
        for reach in model.reach:
            reach.fill_(2.0)  # else both ways agree from the start
    texts = material()
    batch = {
        QUERY: Ragged.pack([texts.queries[i] for i in range(12) for _ in range(4)]),
        DOCUMENT: Ragged.pack([texts.documents[(i + k) % 12] for i in range(12) for k in range(4)]),
    }
    other: Interaction = "cross" if learns == "bi" else "bi"

    def apart() -> float:
        with torch.no_grad():
            found = scores_at_every_exit(model, ["bi", "cross"], batch)
        own, aim = (
            list(found[way].values())[-1].view(12, 4).log_softmax(1) for way in (learns, other)
        )
        return F.kl_div(own, aim, log_target=True, reduction="batchmean").item()

    before = apart()
    recipe = replace(RECIPE, lessons=(lesson,), last_exit=0.0, reach_rate=0.0)
    train_pairs(model, [(texts, 1.0)], recipe, tmp_path / "run")
    assert apart() < before


def test_a_lesson_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="lessons=\\['bi'\\] must be one or more of"):
        PairsRecipe(lessons=("bi",))  # type: ignore[arg-type]


def test_scores_of_training_are_those_of_plans(model: Pairs) -> None:
    texts = material()
    batch = {QUERY: Ragged.pack(texts.queries), DOCUMENT: Ragged.pack(texts.documents)}
    found = scores_at_every_exit(model, INTERACTIONS, batch)
    for way, own in found.items():
        for depth, scores in own.items():
            subnet = model.space.check(model.space.largest | {"interaction": way, "depth": depth})
            plan = model.plan(subnet, {QUERY: (3,), DOCUMENT: (4,)}, [SCORE])
            torch.testing.assert_close(scores, answers_of(plan, batch)[SCORE])


def test_candidates_are_one_right_document_and_wrong_ones() -> None:
    texts = material()
    found = draw(texts, [0, 3, 5, 7], RECIPE, Random(0))
    assert {len(own) for own in found.values()} == {4}
    for q, own in found.items():
        assert own[0] in texts.right[q]
        assert not set(own[1:]) & set(texts.right[q])


def test_the_last_exit_teaches_the_others_and_learns_nothing_of_them() -> None:
    last = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    first = torch.zeros(1, 3, requires_grad=True)
    labels = torch.tensor([[True, False, False]])
    gradients = []
    for weight in (0.0, 1.0):
        recipe = replace(RECIPE, last_exit=weight, teacher=0.0, calibration=0.0)
        loss = ranking_loss({1: first, 4: last}, labels, torch.zeros(1, 3), recipe)
        gradients.append(torch.autograd.grad(loss, (first, last)))
    assert not torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
