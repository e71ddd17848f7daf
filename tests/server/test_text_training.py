from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models import formats
from models.train.text import TextRecipe
from models.train.texts import ScoredPair, overlap
from server import catalog
from server.__main__ import cli
from server.text_training import TextData, elastic, load, train_text
from server.training import CARD, RECORD
from tests.tiny_text import embed

pytest.importorskip("transformers")
from tests.models.formats.public import write_folder  # imports transformers

TEXTS = [" ".join(f"w{(5 * i + 3 * j) % 50}" for j in range(2 + i % 5)) for i in range(60)]
DATA = os.environ.get("RHEOSTAT_DATA")  # read now: tests of the server clear our settings
RECIPE = TextRecipe(steps=4, batch_size=8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public") / "bert"
    write_folder(folder, "bert", hidden_size=64)
    return folder


@pytest.fixture(scope="module")
def data(source: Path) -> TextData:
    """Pairs rated by the public encoder itself, so that the largest subnet is worth something."""
    base = formats.read(source, "base")
    vectors = embed(base, [base.input.encode(text) for text in TEXTS], 4, 64)
    cosines = (vectors[::2] * vectors[1::2]).sum(1).tolist()
    pairs = [ScoredPair(*both) for both in zip(TEXTS[::2], TEXTS[1::2], cosines, strict=True)]
    return TextData(TEXTS, pairs[:10], pairs[10:20], pairs[20:], removed=3)


def test_an_encoder_made_elastic_answers_as_before(source: Path, tmp_path: Path) -> None:
    base = formats.read(source, "base")
    model = elastic(base, source, tmp_path)
    assert model.config.dims == (32, 64)
    rows, same = ([one.input.encode(text) for text in TEXTS[:9]] for one in (base, model))
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
    assert int(served.table.cells["similarity"].n[0, 0]) == len(data.validation)
    record = json.loads((out / RECORD).read_text())
    assert record["recipe"]["steps"] == RECIPE.steps
    assert record["texts"] == {"free": 60, "removed": 3, "rated": 10}
    card = (out / CARD).read_text()
    for row in record["result"]:
        assert f"{100 * row['test_spearman']:.1f}" in card

    weights = (out / "model.safetensors").read_bytes()
    train_text(source, data, out, "tiny-2d", RECIPE)  # done already: nothing is trained again
    assert (out / "model.safetensors").read_bytes() == weights


@pytest.mark.skipif(DATA is None, reason="RHEOSTAT_DATA is not set")
def test_nothing_trained_on_stands_in_a_split_that_measures() -> None:
    assert DATA is not None
    found = load(Path(DATA))
    held_out = [text for pair in (*found.validation, *found.test) for text in pair[:2]]
    trained = [*found.free, *(text for pair in found.rated for text in pair[:2])]
    assert overlap(trained, held_out) == set()
    assert len(found.free) > 45_000
    assert found.removed > 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
