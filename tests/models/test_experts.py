"""What experts promise beyond the kit: who reads which, each once, and what can be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.experts import (
    ALL,
    COUNT,
    RESIDENT,
    SKILL,
    ExpertModel,
    ExpertsConfig,
    extracted,
)
from models.inputs import Item
from models.inputs.text import TOKENIZER
from models.nn.ragged import Ragged
from models.run.jobs import Job
from models.variants import added_bytes
from tests.conformance.fixtures.experts import USES, gated, vectors
from tests.conformance.test_batches import Calls
from tests.walking import done_of

SKILLS = list(USES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ExpertModel:
    return vectors(tmp_path_factory.mktemp("experts"))


def items_of(model: ExpertModel, skills: Sequence[str | None]) -> list[Item]:
    rng = Random(0)
    found = []
    for skill in skills:
        text = torch.tensor([rng.randrange(4, 60) for _ in range(rng.randint(2, 9))])
        given = {} if skill is None else {SKILL: torch.tensor(SKILLS.index(skill))}
        found.append(model.inputs.item({"text": text, **given}))
    return found


def answers(model: ExpertModel, items: Sequence[Item], count: int = 2, **choices: Any) -> Tensor:
    return run(TorchBackend(), model, items, count, **choices)


def run(
    backend: TorchBackend, model: ExpertModel, items: Sequence[Item], count: int, **choices: Any
) -> Tensor:
    jobs = []
    for item in items:
        given = model.inputs.given_choices(model.space.axes, item)
        subnet = model.space.largest | {COUNT: count, **given, **choices}
        jobs.append(Job(model.plan(subnet, model.inputs.shapes(item)), item))
    done = done_of(backend, jobs, model.inputs.collate)
    return torch.stack([one.outputs["similarity"] for one in done])


def test_a_batch_of_skills_runs_each_expert_once_on_the_rows_that_read_it(tmp_path: Path) -> None:
    model, rows = vectors(tmp_path), Counter[str]()
    calls = Counter[str]()

    def called(name: str) -> Any:
        def hook(_: nn.Module, taken: Any, __: Any) -> None:
            calls[name] += 1
            rows[name] += len(taken[0])

        return hook

    for name, part in model.named_modules():
        if name.startswith("experts.") and name.count(".") == 3:
            part.register_forward_hook(called(name))
    items = items_of(model, SKILLS * 5)
    many, one = Calls(), Calls()
    together = run(many, model, items, 2)
    assert set(calls.values()) == {1}
    assert sum(rows.values()) == 2 * 2 * sum(len(item["text"].value) for item in items)
    alone = torch.cat([answers(model, [item]) for item in items])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    run(one, model, items_of(model, ["code"] * 15), 2)
    assert sum(many.calls.values()) == sum(one.calls.values())


@pytest.mark.parametrize("make", [vectors, gated])
def test_experts_that_no_row_reads_may_be_nan(tmp_path: Path, make: Any) -> None:
    model = make(tmp_path)
    items = items_of(model, ["code", "code", "legal"])
    read: list[set[int]] = []
    for part in model.parts:
        part.register_forward_hook(
            lambda own, taken, _: read.append(
                set(own.shares(*taken)[1].any(0).nonzero()[:, 0].tolist())
            )
        )
    expected = answers(model, items, model.config.counts[0])
    assert len(read) == 2
    assert all(0 < len(own) < model.config.experts for own in read)
    for part, own in zip(model.parts, read, strict=True):
        for number in set(range(model.config.experts)) - own:
            for weight in part.each[f"{number}"].parameters():
                weight.fill_(torch.nan)
    assert torch.equal(answers(model, items, model.config.counts[0]), expected)


def test_a_skill_reads_its_own_experts_and_all_where_it_reads_more(model: ExpertModel) -> None:
    (part, _), (item,) = model.parts, items_of(model, [None])
    x = Ragged.pack([torch.randn(4, 16)] * len(SKILLS))
    shares, is_read = part.shares(2, x, torch.arange(len(SKILLS)))
    torch.testing.assert_close(shares.sum(1), torch.full((len(SKILLS),), 2.0))
    assert torch.equal(shares > 0, is_read)
    for row, uses in zip(is_read, USES.values(), strict=True):
        assert set(row.nonzero()[:, 0].tolist()) <= set(uses[0])
    assert part.shares(5, x, torch.arange(len(SKILLS)))[1].all()
    assert part.shares(5, x, None)[1].all()
    assert len(answers(model, [item])) == 1


def test_what_a_skill_does_not_use_can_be_left_out_bit_for_bit(
    model: ExpertModel, tmp_path: Path
) -> None:
    items = items_of(model, ["code"] * 4)
    small = model.variant({RESIDENT: "code"})
    assert added_bytes(small, model) == sum(part.may_read.nbytes for part in small.parts)
    assert [list(part.each) for part in small.parts] == [["0", "2"], ["1", "2"]]
    own = extracted(model, "code")
    vectors(tmp_path)
    checkpoint.save(tmp_path, own, "experts", torch.float32, [TOKENIZER])
    loaded = checkpoint.load(tmp_path).model
    assert isinstance(loaded, ExpertModel)
    assert loaded.config.counts == (1, 2)
    assert sum(p.numel() for p in loaded.parameters()) < sum(p.numel() for p in model.parameters())
    for count in (1, 2):
        expected = answers(model, items, count)
        assert torch.equal(answers(small, items, count, **{RESIDENT: "code"}), expected)
        assert torch.equal(answers(loaded, items, count), expected)
    others = items_of(model, ["legal", "chat"])
    assert answers(loaded, others).isfinite().all()
    with pytest.raises(ValueError, match="'chat' is not known; one of"):
        extracted(model, "chat")


def test_fewer_experts_cost_less_and_fewer_that_are_there_hold_less(model: ExpertModel) -> None:
    def cost(count: int, resident: str) -> Any:
        subnet = model.space.largest | {COUNT: count, RESIDENT: resident, "inputs": "text+skill"}
        return model.plan(subnet, {"text": (9,), SKILL: ()}).cost

    expert = 9 * 6 * 16 * 2 * 2  # tokens, units, hidden, maps, layers
    assert [cost(n, ALL).macs - cost(1, ALL).macs for n in (2, 5)] == [expert, 4 * expert]
    assert cost(2, "code").macs == cost(2, ALL).macs
    held = [cost(2, name).bytes for name in model.config.resident]
    one = 4 * (2 * 6 * 16 + 6 + 16)
    assert [held[2] - held[0], held[2] - held[1]] == [6 * one, 4 * one]


def config(**fields: Any) -> ExpertsConfig:
    own: dict[str, Any] = {"family": "exits", "model": {}, "experts": 5, "units": 6}
    own |= {"counts": (1, 2)}
    return ExpertsConfig(**(own | {"uses": USES, "resident": ("code", ALL)} | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experts": 65}, "experts: 65; 1 to 64"),
        ({"uses": {}}, "uses: 0; 1 to 64"),
        ({"units": 0}, "units=0"),
        ({"counts": (2, 1)}, "counts="),
        ({"counts": (1, 6)}, "counts="),
        ({"uses": {"all": ((0, 1),)}}, "uses: 'all'"),
        ({"uses": {"code": ((1, 0),)}}, r"uses.code: \[1, 0\] must ascend below 5"),
        ({"resident": ("tax",)}, "resident="),
        ({"counts": (3,)}, "a skill needs 3 experts or more"),
        ({"counts": (1, 3), "resident": (ALL, "code")}, "2 experts in some layer"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_uses_of_other_layers_are_refused(model: ExpertModel) -> None:
    uses = {"code": ((0, 1, 2),) * 3}
    own = config(model=model.config.model, uses=uses)
    with pytest.raises(ValueError, match=r"uses\.code has 3 layers, the model 2"):
        ExpertModel("tiny", own)
