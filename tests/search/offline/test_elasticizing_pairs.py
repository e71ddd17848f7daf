"""From a cross-encoder's folder and rated pairs to a served elastic checkpoint that ranks."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from models.formats import read_any
from models.space import Subnet
from search.offline.material import read_material
from search.offline.whole import answers_of
from server import catalog
from server.app import create_app
from server.cli.main import cli
from server.settings import Settings
from tests.models.formats.test_sequence_classifiers import write_classifier


def sentence(rng: Random) -> str:
    return " ".join(f"w{rng.randrange(56)}" for _ in range(rng.randint(2, 7)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cross")
    write_classifier(folder, "bert", 1, type_vocab_size=2)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Pairs with the ratings that the model itself gives, and some noise."""
    rng = Random(0)
    rows = [(sentence(rng), sentence(rng)) for _ in range(300)]
    scores = answers_of(read_any(source, "tiny", pair=True), rows).tolist()
    lines = [
        f"{first}\t{second}\t{score + rng.gauss(0, 0.01):.4f}"
        for (first, second), score in zip(rows, scores, strict=True)
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.tsv"
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
    return path


def test_a_cross_encoder_becomes_elastic_and_ranks_within_a_budget(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["elasticize", str(source), "--data", str(pairs), "--out", str(out)]
    arguments += ["--minutes", "0.05", "--keep", "0.5,0.8", "--name", "cross"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    served = catalog.load(out).choose("cross")
    task = served.elastic.tasks["score"]
    assert (task.kind, task.metric) == ("score", "spearman")
    cells = served.table.cells["score"]
    whole = served.elastic.space.largest
    scores = dict(zip(served.table.rows, cells.value[:, 0].tolist(), strict=True))
    assert scores[whole] > 0.9
    assert 0 < scores[whole | {"keep": 0.5}] < scores[whole]
    settings = Settings(
        models=out, policy="fixed", database=f"sqlite:///{tmp_path / 'c.db'}", profiles=tmp_path
    )
    with TestClient(create_app(settings)) as client:
        body = {"query": "w1 w2", "documents": ["w3", "w4 w5", "w6"]}
        all_of_it = client.post("/v1/rerank", json=body).json()
        half = client.post("/v1/rerank", json={**body, "budget": {"fraction": 0.7}}).json()
    assert half["receipt"]["subnet"]["keep"] < all_of_it["receipt"]["subnet"]["keep"]
    assert half["receipt"]["total_flops"] < all_of_it["receipt"]["total_flops"]
    assert all(0 <= one["relevance_score"] <= 1 for one in half["results"])


def test_ratings_that_contradict_the_model_are_told_from_a_cut_that_keeps_nothing(
    source: Path, pairs: Path, tmp_path: Path
) -> None:
    head, *rows = pairs.read_text().splitlines()
    turned = []
    for row in rows:
        first, second, score = row.split("\t")
        turned.append(f"{first}\t{second}\t{-float(score)}")
    path = tmp_path / "turned.tsv"
    path.write_text("\n".join([head, *turned]) + "\n")
    arguments = ["elasticize", str(source), "--data", str(path), "--out", str(tmp_path / "out")]
    arguments += ["--minutes", "0.03", "--keep", "0.8", "--rankings", "contribution"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert "the whole model has spearman -0.9" in told
    assert "what a cut keeps of it cannot be said" in told


def test_pairs_of_a_cross_encoder_are_items_of_their_own(source: Path, pairs: Path) -> None:
    model = read_any(source, "tiny", pair=True)
    rows = [("w1 w2", "w3"), ("w4", "w5 w6 w7"), ("w8", "w9")]
    together = answers_of(model, rows)
    alone = [float(answers_of(model, [row])[0]) for row in rows]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert together.shape == (3,)
    whole = Subnet(model.space.largest)
    assert model.plan(whole, {"query": (4,), "document": (3,)}).cost.macs > 0
    assert torch.isfinite(torch.tensor(together)).all()
    assert read_material(pairs, [], 0) is not None
