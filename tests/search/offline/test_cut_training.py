"""Cuts that learn: a checkpoint in, a better one out, with a table of its own."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from typer.testing import CliRunner

from models import checkpoint
from models.train.cuts import CutsRecipe
from search.budget import Budget
from search.offline.cut_training import train_cuts_of
from search.offline.training import RECORD
from search.quality.table import TABLE, Table
from server import catalog
from server.cli.main import cli
from tests.search.offline.test_static_exit import document, write_pruned
from tests.tiny_text import write_text_checkpoint


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = Random(1)
    return list(dict.fromkeys(document(rng) for _ in range(300)))


@pytest.fixture(autouse=True)
def held_out(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("search.offline.cut_training.HELD_OUT", 60)
    return 60


def test_trained_cuts_agree_more_with_the_whole_and_are_served(
    texts: list[str], held_out: int, tmp_path: Path
) -> None:
    source, still, out = (tmp_path / name for name in ("source", "still", "out"))
    write_pruned(source)
    digest = checkpoint.read_manifest(source).files[checkpoint.WEIGHTS]
    before = train_cuts_of(source, texts, still, CutsRecipe(steps=1, learning_rate=0.0))
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    options = ["--texts", str(tmp_path / "texts.txt"), "--out", str(out)]
    options += ["--steps", "80", "--batch-size", "16", "--learning-rate", "0.02"]
    done = CliRunner().invoke(cli, ["train", "cuts", str(source), *options])
    assert done.exit_code == 0, done.output
    record = json.loads((out / RECORD).read_text())
    assert record["texts"] == {"taught": len(texts) - held_out, "held out": held_out}
    for keep, one in before.items():
        value, n, _ = record["agreement"][str(keep)].values()
        assert n == one.n == held_out
        if keep == 1:
            assert value == pytest.approx(1, abs=1e-3)
        else:
            assert value > one.value + 0.02
            assert f"keep {keep:g}: agreement {value:.4f}" in done.output
    assert checkpoint.read_manifest(source).files[checkpoint.WEIGHTS] == digest

    old, new = (checkpoint.load(folder).model for folder in (source, out))
    for name, tensor in old.base.state_dict().items():
        torch.testing.assert_close(new.base.state_dict()[name], tensor)
    table = Table.load(out / TABLE, new.space, new.tasks)
    assert {row["bits"] for row in table.rows} == {8, 32}
    assert list(table.cells) == ["similarity"]
    served = catalog.load(out).choose(None)
    found = served.finder.find(budget=Budget(fraction=0.7))
    assert float(found.subnet["keep"]) < 1


def test_what_has_no_cuts_is_refused(texts: list[str], tmp_path: Path) -> None:
    source = write_text_checkpoint(tmp_path / "exits")
    with pytest.raises(ValueError, match="family 'exits' has no cuts"):
        train_cuts_of(source, texts, tmp_path / "out", CutsRecipe())


def test_texts_for_no_batch_beside_the_held_out_are_refused(
    texts: list[str], tmp_path: Path
) -> None:
    write_pruned(tmp_path / "source")
    with pytest.raises(ValueError, match="123 texts; needed are 124 or more, of which 60"):
        train_cuts_of(tmp_path / "source", texts[:123], tmp_path / "out", CutsRecipe())
