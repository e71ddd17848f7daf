"""Mixed weights over HTTP: preferences choose a mix, which is built once and kept in the pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.families.mixed import AXIS, Mixed
from models.inputs.text import TOKENIZER
from models.nn.ragged import Ragged
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE
from server.app import create_app
from server.settings import Settings
from tests.conformance.fixtures.mixed import made
from tests.walking import answers_of

TEXT = "w1 w2 w3"
_WORTH = {  # of each mix, the scores of similarity and of code
    "first": (0.8, 0.3),
    "second": (0.3, 0.8),
    "both": (0.6, 0.6),
    "base": (0.4, 0.4),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return made(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def client(model: Mixed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("models") / "tiny-mixed"
    folder.mkdir()
    made(folder)
    subnets = list(model.space)
    found: dict[str, list[Measured]] = {}
    for place, task in enumerate(model.tasks):
        found[task] = [
            Measured(_WORTH[str(one[AXIS])][place] * (0.8 + 0.1 * int(one["depth"])), 50, 0.01)
            for one in subnets
        ]
    table_of(model, subnets, found).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "mixed", torch.float32, (TOKENIZER, TABLE))
    settings = Settings(models=folder.parent, policy="fixed")
    with TestClient(create_app(settings)) as client:
        yield client


def asked(client: TestClient, **fields: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    answer = client.post("/v1/embeddings", json={"input": TEXT, **fields})
    assert answer.status_code == 200, answer.text
    return torch.tensor(answer.json()["data"][0]["embedding"]), answer.json()["receipt"]


def test_preferences_choose_the_mix_and_its_weights_answer(
    client: TestClient, model: Mixed
) -> None:
    spaces = set()
    ids = Ragged.pack([model.inputs["text"].type.encode(TEXT)])  # type: ignore[attr-defined]
    for preferences, mix in (
        ({"similarity": 1.0}, "first"),
        ({"code": 1.0}, "second"),
        ({"similarity": 1.0, "code": 1.0}, "both"),
    ):
        found, receipt = asked(client, preferences=preferences)
        assert receipt["subnet"][AXIS] == mix
        subnet = model.space.check(receipt["subnet"])
        plan = model.variant({AXIS: mix}).plan(subnet, {"text": (5,)})
        expected = next(iter(answers_of(plan, {"text": ids}).values()))[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        spaces.add(receipt["space"])
    assert len(spaces) == 3


def test_a_mix_costs_nothing_more_and_less_depth_costs_less(client: TestClient) -> None:
    whole = [asked(client, preferences={task: 1.0})[1] for task in ("similarity", "code")]
    assert whole[0]["macs"] == whole[1]["macs"]
    budget = {"macs": whole[0]["macs"] - 1}
    cheap = asked(client, preferences={"code": 1.0}, budget=budget)[1]
    assert cheap["macs"] < whole[0]["macs"]
    assert cheap["subnet"][AXIS] == "second"


def test_building_is_counted_and_timed(client: TestClient) -> None:
    asked(client, preferences={"code": 1.0})
    asked(client, preferences={"code": 1.0})
    lines = dict(
        line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#"
    )
    assert 1 <= float(lines["rheostat_variants_builds_total"]) <= 3
    assert float(lines["rheostat_variants_seconds_total"]) > 0
    assert float(lines["rheostat_variants_bytes"]) > 0
