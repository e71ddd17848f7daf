"""Experts over HTTP: who asks for less pays less, in MACs and in bytes that are held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from models import checkpoint
from models.families.experts import ALL, COUNT, RESIDENT, SKILL, ExpertModel
from models.inputs.text import TOKENIZER
from models.nn.ragged import Ragged
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from server.app import create_app
from server.cli.main import cli
from server.settings import Settings
from tests.conformance.fixtures.experts import USES, made
from tests.tiny_text import exits_config
from tests.walking import answers_of

TEXT = "w1 w2 w3"


def vectors(folder: Path) -> ExpertModel:
    """Return a model whose only choices are of experts."""
    config = exits_config("post", {"layers": 2}, depths=(2,), dims=(16,), heads=(1.0,), ffn=(1.0,))
    return made(folder, "exits", config)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ExpertModel:
    return vectors(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def folder(model: ExpertModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-experts"
    vectors(folder)
    subnets = list(model.space)
    worth = [
        Measured(0.5 + 0.02 * int(one[COUNT]) + 0.01 * (one[RESIDENT] == ALL), 50, 0.01)
        for one in subnets
    ]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "experts", torch.float32, (TOKENIZER, TABLE))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models=folder.parent, policy="fixed"))) as client:
        yield client


def asked(client: TestClient, **fields: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    answer = client.post("/v1/embeddings", json={"input": TEXT, **fields})
    assert answer.status_code == 200, answer.text
    return torch.tensor(answer.json()["data"][0]["embedding"]), answer.json()["receipt"]


def test_budgets_buy_experts_and_bytes_leave_out_those_that_a_skill_does_not_use(
    client: TestClient, model: ExpertModel
) -> None:
    _, whole = asked(client, adapter="code")
    assert whole["subnet"][COUNT] == model.config.experts
    subnet = model.space.check({**whole["subnet"], COUNT: 2})
    cost = model.plan(subnet, {"text": (5,), SKILL: ()}).cost
    _, fewer = asked(client, adapter="code", budget={"macs": cost.macs})
    assert fewer["subnet"] == dict(subnet)
    assert fewer["macs"] == cost.macs < whole["macs"]
    found, small = asked(client, adapter="code", budget={"bytes": cost.bytes - 1, "strict": True})
    assert small["subnet"][RESIDENT] == "code"
    assert small["subnet"][COUNT] == 2
    ids = Ragged.pack([model.inputs["text"].type.encode(TEXT)])  # type: ignore[attr-defined]
    plan = model.plan(subnet, {"text": (5,), SKILL: ()})
    which = torch.tensor([list(USES).index("code")])
    (expected,) = answers_of(plan, {"text": ids, SKILL: which}).values()
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=0)


def test_a_skill_that_there_is_not_is_refused_by_name(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": TEXT, "adapter": "tax"})
    assert answer.status_code in (400, 422)
    assert "'tax' is not known; one of ['code', 'legal', 'chat']" in answer.text


def test_what_is_extracted_is_served_and_answers_as_before(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    args = ["extract", str(folder), "--skill", "code", "--out", str(tmp_path / "code")]
    assert CliRunner().invoke(cli, [*args, "--name", "only-code"]).exit_code == 0
    whole = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in (tmp_path / "code").glob("*.safetensors")) < whole
    expected, receipt = asked(client, adapter="code", budget={"fraction": 0.9})
    assert receipt["subnet"][COUNT] == 2
    with TestClient(create_app(Settings(models=tmp_path, policy="fixed"))) as alone:
        found, receipt = asked(alone, adapter="code")
        assert (receipt["subnet"][RESIDENT], receipt["subnet"][COUNT]) == ("code", 2)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
