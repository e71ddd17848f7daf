"""What is kept of trained experts, and how skills are measured that items name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.families.experts import ALL, COUNT, RESIDENT, SKILL, ExpertModel
from models.nn.ragged import Ragged
from models.train.texts import ScoredPair
from search.offline.adapter_training import AdapterLesson
from search.offline.experts_training import Skilled, chosen_scores, kept, with_uses
from search.quality.embeddings import SimilarityQuality
from tests.conformance.fixtures.experts import EXPERTS, USES, vectors
from tests.tiny_text import token_rows
from tests.walking import answers_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ExpertModel:
    return vectors(tmp_path_factory.mktemp("experts"))


def test_a_skill_keeps_what_enough_of_its_texts_read_and_two_at_least() -> None:
    used = [[torch.tensor([0.5, 0.995, 0.0, 0.5, 0.005])]]
    assert kept(used, ["code"], 0.01) == {"code": ((0, 1, 3),)}
    assert kept(used, ["code"], 0.0) == {"code": ((0, 1, 3, 4),)}
    assert kept(used, ["code"], 0.9) == {"code": ((0, 1, 3),)}


def test_skills_get_their_own_experts_and_those_of_fewest_come_first(tmp_path: Path) -> None:
    model = vectors(tmp_path, uses=dict.fromkeys(USES, (tuple(range(EXPERTS)),) * 2))
    made = with_uses(model, USES)
    assert made.config.resident == ("code", "legal", "chat", ALL)
    assert [list(part.each) for part in made.variant({RESIDENT: "code"}).parts] == [
        ["0", "2"],
        ["1", "2"],
    ]
    assert made.inputs["text"].type is model.inputs["text"].type
    whole, own = dict(model.named_parameters()), dict(made.named_parameters())
    assert all(own[name] is one for name, one in whole.items() if name.startswith("base."))


def test_a_model_of_one_skill_answers_as_if_each_text_named_it(model: ExpertModel) -> None:
    rows = Ragged.pack(token_rows())
    subnet = model.space.largest | {COUNT: 2, "inputs": "text+skill"}
    skill = list(USES).index("legal")
    plan = model.plan(subnet, {"text": (9,), SKILL: ()})
    which = torch.full((len(rows),), skill)
    expected = answers_of(plan, {"text": rows, SKILL: which})["similarity"]
    plan = Skilled(model, "legal").plan(subnet, {"text": (9,)})
    assert plan.inputs == ("text",)
    assert torch.equal(answers_of(plan, {"text": rows})["similarity"], expected)


def test_what_a_skill_answers_with_its_own_experts_is_scored_once(model: ExpertModel) -> None:
    words = [f"w{i} w{3 * i + 1} w{i + 2}" for i in range(12)]
    pairs = [ScoredPair(words[i], words[-1 - i], float(i)) for i in range(6)]
    data = SimilarityQuality(pairs)
    lesson = AdapterLesson("spearman", [], data, data)
    whole = model.space.largest
    subnets = [
        whole | {COUNT: count, RESIDENT: resident, "inputs": inputs}
        for inputs in ("text", "text+skill")
        for resident in ("code", "legal", ALL)
        for count in (1, 2)
    ]
    found = dict(zip(subnets, chosen_scores(model, "code", lesson, subnets), strict=True))
    given = whole | {COUNT: 2, "inputs": "text+skill"}
    assert found[given | {RESIDENT: "code"}] is found[given | {RESIDENT: ALL}]
    assert found[given | {RESIDENT: "legal"}].value != found[given | {RESIDENT: ALL}].value
