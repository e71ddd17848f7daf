"""What two heads promise beyond the kit: their ends are the heads, and a table tells the share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from fastapi.testclient import TestClient
from torch import Tensor

from models import checkpoint
from models.elastic import nesting_axis
from models.families.dual import AXIS, LABELS, TEACHER, DualHeads
from models.inputs.text import TOKENIZER
from models.nn.ragged import Ragged
from models.space import Subnet
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from server.app import create_app
from server.settings import Settings
from tests.conformance.fixtures.dual import ALPHAS, made
from tests.walking import answers_of

BEST = {1: 0.5, 2: 0.25}  # alpha by depth


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DualHeads:
    return made(tmp_path_factory.mktemp("dual"))


def logits(model: DualHeads, subnet: Subnet, ids: Ragged) -> Tensor:
    (found,) = answers_of(model.plan(subnet, {"text": (5,)}), {"text": ids}).values()
    return found


def texts() -> Ragged:
    rng = Random(0)
    return Ragged.pack([torch.tensor([rng.randrange(4, 60) for _ in range(n)]) for n in (3, 7, 5)])


def test_the_ends_are_one_head_each_and_what_is_between_mixes_probabilities(
    model: DualHeads,
) -> None:
    ids = texts()
    for base in model.base.space:
        (vectors, *_) = answers_of(model.base.plan(base, {"text": (5,)}), {"text": ids}).values()
        heads = model.heads_of(base)
        own = [
            F.linear(vectors, one.weight[:, : vectors.shape[1]], one.bias)
            for one in (heads.labels, heads.teacher)
        ]
        for alpha in ALPHAS:
            found = logits(model, Subnet({AXIS: alpha}) | base, ids)
            if alpha in (LABELS, TEACHER):
                assert torch.equal(found, own[int(alpha)])
            labels, teacher = (one.softmax(1) for one in own)
            mixed = (1 - alpha) * labels + alpha * teacher
            torch.testing.assert_close(found.softmax(1), mixed)


def test_a_share_costs_one_head_and_depth_stays_what_answers_are_deepened_by(
    model: DualHeads,
) -> None:
    whole = model.space.largest
    head = len(model.config.labels) * int(whole["dim"])
    costs = [model.plan(whole | {AXIS: alpha}, {"text": (5,)}).cost for alpha in ALPHAS]
    assert [one.macs - costs[0].macs for one in costs] == [0, 0, head, head]
    axis = nesting_axis(model, {"text": (5,)})
    assert axis is not None
    assert axis.name == "depth"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alphas": (0.5, 0.0, 1.0)}, "alphas="),
        ({"alphas": (0.0, 1.0, 1.5)}, "alphas="),
        ({"alphas": (0.0, 1.0, 0.5, 0.5)}, "alphas="),
        ({"exits": "width"}, "exits='width' must be one of the axes"),
    ],
)
def test_what_cannot_be_built_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, **fields)


def worth(subnet: Subnet) -> float:
    """Return a score: whole exits before narrow ones, the deeper before the less deep."""
    depth = int(subnet["depth"])
    narrow = float(subnet["heads"]) + float(subnet["ffn"]) < 2 or subnet["dim"] == 4
    return 0.6 + 0.1 * depth - 0.3 * narrow - 0.1 * abs(float(subnet[AXIS]) - BEST[depth])


@pytest.fixture(scope="module")
def client(model: DualHeads, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("models") / "tiny-dual"
    folder.mkdir()
    made(folder)
    subnets = list(model.space)
    found = [Measured(worth(one), 50, 0.01) for one in subnets]
    table_of(model, subnets, {"kind": found}).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "dual", torch.float32, (TOKENIZER, TABLE))
    with TestClient(create_app(Settings(models=folder.parent, policy="fixed"))) as client:
        yield client


def test_the_table_tells_the_share_of_each_exit(client: TestClient, model: DualHeads) -> None:
    shallow = model.plan(model.space.largest | {"depth": 1}, {"text": (5,)}).cost.macs
    for depth, budget in ((2, None), (1, {"macs": shallow})):
        answer = client.post("/v1/infer", json={"inputs": {"text": "w1 w2 w3"}, "budget": budget})
        assert answer.status_code == 200, answer.text
        subnet = answer.json()["receipt"]["subnet"]
        assert (subnet["depth"], subnet[AXIS]) == (depth, BEST[depth])
