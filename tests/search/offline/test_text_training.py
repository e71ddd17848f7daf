from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models import checkpoint, formats
from models.train.text import TextRecipe
from models.train.texts import ScoredPair, as_collection, overlap
from search.offline import text_data
from search.offline.text_data import TextData
from search.offline.text_training import elastic, train_text
from search.offline.training import CARD, RECORD
from search.quality.embeddings import RankingQuality, SimilarityQuality
from server import catalog
from server.cli.main import cli
from tests.tiny_text import embed

pytest.importorskip("transformers")
from tests.models.formats.public import write_folder  # imports transformers

TEXTS = [" ".join(f"w{(5 * i + 3 * j) % 50}" for j in range(2 + i % 5)) for i in range(60)]
DATA = os.environ.get("RHEOSTAT_DATA")  # read now: tests of the server clear our settings
RECIPE = TextRecipe(steps=4, batch_size=8)
STANDING_STILL = replace(RECIPE, learning_rate=0.0, projection_rate=0.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public") / "bert"
    write_folder(folder, "bert", hidden_size=64)
    return folder


@pytest.fixture(scope="module")
def data(source: Path) -> TextData:
    """Pairs rated by the public encoder itself, so that the largest subnet is worth something."""
    base = formats.read(source, "base")
    vectors = embed(base, [base.text.encode(text) for text in TEXTS], 4, 64)
    cosines = (vectors[::2] * vectors[1::2]).sum(1).tolist()
    pairs = [ScoredPair(*both) for both in zip(TEXTS[::2], TEXTS[1::2], cosines, strict=True)]
    return TextData(
        task="similarity",
        metric="spearman",
        free=TEXTS,
        pairs=pairs[:10],
        share=0.5,
        validation=SimilarityQuality(pairs[10:20]),
        test=SimilarityQuality(pairs[20:]),
        removed=3,
        licences="made up",
    )


def test_an_encoder_made_elastic_answers_as_before(
    source: Path, data: TextData, tmp_path: Path
) -> None:
    base = formats.read(source, "base")
    model = elastic(base, source, tmp_path, data)
    assert model.config.dims == (32, 64)
    rows, same = ([one.text.encode(text) for text in TEXTS[:9]] for one in (base, model))
    for depth in base.config.depths:
        torch.testing.assert_close(
            embed(model, same, depth, 64), embed(base, rows, depth, 64), atol=1e-5, rtol=0
        )


def test_a_trained_encoder_becomes_a_checkpoint_that_can_be_served(
    source: Path, data: TextData, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train_text(source, data, out, "tiny-2d", RECIPE)
    served = catalog.load(out).choose("tiny-2d")
    space = served.elastic.space
    assert len(served.table.rows) == len(list(space))
    assert int(served.table.cells["similarity"].n[0, 0]) == 10
    record = json.loads((out / RECORD).read_text())
    assert record["recipe"]["steps"] == RECIPE.steps
    assert record["texts"] == {"free": 60, "removed": 3, "pairs": 10}
    card = (out / CARD).read_text()
    for row in record["result"]:
        assert f"{100 * row['test']:.1f}" in card

    weights = (out / "model.safetensors").read_bytes()
    train_text(source, data, out, "tiny-2d", RECIPE)  # done already: nothing is trained again
    assert (out / "model.safetensors").read_bytes() == weights

    again = tmp_path / "again"
    train_text(source, data, again, "tiny-2d", STANDING_STILL, init=out)
    stored = checkpoint.load(again).model
    for depth in (1, 4):
        rows = [stored.text.encode(text) for text in TEXTS[:5]]
        first, second = (embed(m, rows, depth, 64) for m in (stored, served.model))
        torch.testing.assert_close(first, second, atol=2e-3, rtol=0)  # stored as float16


def test_code_search_trains_on_partners_and_spells_rare_words(source: Path, tmp_path: Path) -> None:
    pairs = [(TEXTS[i], TEXTS[i + 1]) for i in range(0, 40, 2)]
    data = TextData(
        task="code-search",
        metric="mrr@10",
        free=TEXTS[:20],
        pairs=pairs,
        share=1.0,
        validation=RankingQuality(as_collection(pairs), "mrr@10"),
        test=RankingQuality(as_collection(pairs[:5]), "mrr@10"),
        removed=0,
        licences="made up",
        own_words=True,
    )
    train_text(source, data, tmp_path, "tiny-code", RECIPE)
    served = catalog.load(tmp_path).choose("tiny-code")
    assert served.elastic.tasks["code-search"].metric == "mrr@10"
    assert "Mean reciprocal rank" in (tmp_path / CARD).read_text()
    base = formats.read(source, "base")
    smaller = served.model.text
    assert smaller.vocab_size < base.text.vocab_size
    for text in TEXTS[:40]:
        assert len(smaller.encode(text)) == len(base.text.encode(text))


@pytest.mark.skipif(DATA is None, reason="RHEOSTAT_DATA is not set")
@pytest.mark.parametrize(
    ("name", "num_pairs", "num_free", "num_removed"),
    [("general", 5_000, 45_000, 400), ("pydoc-code", 12_000, 6_000, 1)],
)
def test_nothing_trained_on_stands_in_a_split_that_measures(
    name: str, num_pairs: int, num_free: int, num_removed: int
) -> None:
    assert DATA is not None
    found = text_data.DATA[name](Path(DATA))
    held_out = list(map(str, [*found.validation.texts, *found.test.texts]))
    trained = [*found.free, *(text for pair in found.pairs for text in pair[:2])]
    assert overlap(trained, held_out) == set()
    assert len(found.pairs) >= num_pairs
    assert len(found.free) >= num_free
    assert found.removed >= num_removed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "poems"], "--data=poems must be one of"),
        (["--strategy", "best"], "--strategy=best must be one of"),
        (["--strategy", "pairs"], "needs them"),
        (["--pairs", "2:32"], "belongs to --strategy=pairs"),
        (["--strategy", "pairs", "--pairs", "2-32"], "depth:dim"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    source: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = ["train", "text", str(source), "--out", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
