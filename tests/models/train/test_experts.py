"""Experts made of a model's units: they answer as it did, and learn which skills read them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from models.elasticize.expert_groups import ordered_units, with_experts_of
from models.families.experts import ExpertModel, ExpertsConfig
from models.nn.ragged import Ragged
from models.train.examples import Distances
from models.train.experts import ExpertRecipe, information, train_experts, use_of
from tests.conformance.fixtures.experts import vectors
from tests.tiny_text import tiny_exits, token_rows, write_tokenizer
from tests.walking import answers_of

ROWS = token_rows((5, 3, 8, 6, 4, 7) * 4)
SKILLS = [i % 3 for i, _ in enumerate(ROWS)]


@pytest.mark.parametrize("architecture", ["post", "gated"])
def test_all_experts_in_equal_parts_are_the_model_that_they_were_made_of(
    architecture: str, tmp_path: Path
) -> None:
    base = tiny_exits(architecture, depths=(4,), heads=(1.0,), ffn=(1.0,))
    generator = torch.Generator().manual_seed(0)
    worth = [torch.rand(2, 24, generator=generator) for _ in base.layers]
    orders = [ordered_units(own) for own in worth]
    assert all(order.sort().values.tolist() == list(range(24)) for order in orders)
    uses = dict.fromkeys(("code", "chat"), ((0, 1, 2, 3),) * 4)
    config = ExpertsConfig("exits", {}, 4, 4, (1, 4), uses)
    made = with_experts_of(base, "exits", orders, [], 8, config)
    made.attach(write_tokenizer(tmp_path))
    (row, *_) = ROWS
    subnet = made.space.largest | {"inputs": "text"}
    batch = {"text": Ragged.pack([row])}
    (found,) = answers_of(made.plan(subnet, {"text": (5,)}), batch).values()
    (expected,) = answers_of(base.plan(base.space.largest, {"text": (5,)}), batch).values()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    first = with_experts_of(base, "exits", orders, worth, 8, config)
    for part, own, order in zip(first.parts, worth, orders, strict=True):
        of_experts = own[:, order[8:].view(4, 4)].sum(2)
        assert torch.equal(part.bias[:-1].argmax(1), of_experts.argmax(1))


def test_units_are_in_the_order_of_their_share_of_what_all_skills_need() -> None:
    worth = torch.tensor([[9.0, 1, 5, 1, 4, 0], [90.0, 40, 20, 10, 40, 0]])
    assert ordered_units(worth).tolist() == [0, 4, 2, 1, 3, 5]


def test_information_is_none_of_equal_shares_and_most_of_an_expert_a_skill() -> None:
    which = torch.tensor([0, 1, 0, 1])
    assert float(information(torch.full((4, 8), 1 / 8), which)) == pytest.approx(0, abs=1e-5)
    own = torch.nn.functional.one_hot(which, 8).float()
    assert float(information(own, which)) == pytest.approx(math.log(2), abs=1e-4)


def trained(folder: Path, recipe: ExpertRecipe) -> tuple[ExpertModel, dict[str, torch.Tensor]]:
    model = vectors(folder)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    wanted = torch.nn.functional.normalize(torch.randn(len(ROWS), 16, generator=generator))
    train_experts(model, Distances(ROWS, wanted), SKILLS, recipe, folder / "run")
    return model, before


def test_experts_learn_and_nothing_else_changes(tmp_path: Path) -> None:
    model, before = trained(tmp_path, ExpertRecipe(steps=12, batch_size=8, learning_rate=1e-2))
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name]) == (not name.startswith("experts."))
    (use, _) = use_of(model, ROWS, 0, 2)
    assert float(use.sum()) == pytest.approx(2)


def test_without_gates_only_the_experts_learn(tmp_path: Path) -> None:
    model, before = trained(tmp_path, ExpertRecipe(steps=3, batch_size=8, gated=False))
    for name, one in model.state_dict().items():
        chooses = name.count(".") == 2 and name.endswith((".bias", ".content"))
        is_same = name.startswith("base.") or chooses
        assert torch.equal(one, before[name]) == is_same
