"""Fewer tokens over HTTP: a budget buys them, and what runs is what the receipt says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.families.tokens import FewerTokens
from models.inputs.text import TOKENIZER
from models.nn.ragged import Ragged
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from server.app import create_app
from server.settings import Settings
from tests.conformance.fixtures.tokens import texts
from tests.walking import answers_of

TEXT = " ".join(f"w{i}" for i in range(1, 25))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FewerTokens:
    return texts(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def client(model: FewerTokens, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("models") / "tiny-tokens"
    folder.mkdir()
    texts(folder)
    subnets = list(model.space)
    extent = [
        sum(axis.index(one[axis.name]) / len(axis.values) for axis in model.space.axes)
        for one in subnets
    ]
    worth = [Measured(0.4 + 0.1 * one, 50, 0.01) for one in extent]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "tokens", torch.float32, (TOKENIZER, TABLE))
    with TestClient(create_app(Settings(models=folder.parent, policy="fixed"))) as client:
        yield client


def test_less_costs_less_and_every_answer_is_that_of_its_own_run(
    client: TestClient, model: FewerTokens
) -> None:
    ids = Ragged.pack([model.inputs["text"].type.encode(TEXT)])  # type: ignore[attr-defined]
    shapes, seen = {"text": (len(ids.values),)}, []
    for fraction in (1.0, 0.8, 0.6, 0.5):
        body = {"input": [TEXT, "w1 w2"], "budget": {"fraction": fraction}}
        answer = client.post("/v1/embeddings", json=body).json()
        receipt = answer["receipt"]
        subnet = model.space.check(receipt["subnet"])
        plan = model.plan(subnet, shapes)
        (expected,) = answers_of(plan, {"text": ids}).values()
        found = torch.tensor(answer["data"][0]["embedding"])
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=0)
        assert receipt["macs"] == plan.cost.macs
        seen.append((receipt["macs"], subnet["tokens"], receipt["space"]))
    macs = [one[0] for one in seen]
    assert macs == sorted(macs, reverse=True)
    assert {one[1] for one in seen} > {"all"}
    assert len({one[2] for one in seen}) > 1
