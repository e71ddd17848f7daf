from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.budget import Budget
from server.catalog import load_one
from server.cli.main import cli
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

pytest.importorskip("onnxruntime")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["export", *arguments])
    return result.exit_code, result.output


def test_a_budget_exports_what_the_search_takes(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "tiny")
    served = load_one(model)
    expected = served.finder.find(budget=Budget(fraction=0.5), tolerance=0)
    code, text = run(str(model), "--budget", "0.5", "--out", str(tmp_path / "out"))
    assert code == 0, text
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["subnet"] == dict(expected.subnet)
    assert told["macs"] == expected.cost.macs
    assert told["scores"]["fish"]["score"] == expected.scores["fish"].value
    assert f"{expected.cost.macs:,} MACs" in (tmp_path / "out" / "README.md").read_text()


def test_an_embedding_is_not_cut_for_a_budget(tmp_path: Path) -> None:
    model = write_text_checkpoint(tmp_path / "tiny")
    code, text = run(str(model), "--budget", "0.5", "--out", str(tmp_path / "out"))
    assert code == 0, text
    assert json.loads((tmp_path / "out" / "export.json").read_text())["subnet"]["dim"] == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of --subnet and --budget is needed"),
        (["--budget", "0.0001"], "--budget=0.0001: budget.fraction=0.0001 is too small"),
        (["--budget", "1.5"], "fraction"),
        (["--subnet", "x"], "--subnet=x is no JSON"),
        (["--subnet", "[]"], "--subnet=[] must be a JSON object"),
        (["--subnet", '{"encoder.stage1": 0.3}'], "--subnet: axis 'encoder.stage2' has no value"),
        (["--budget", "0.5", "--tasks", "cats"], "cats"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    model = write_checkpoint(tmp_path / "tiny")
    code, text = run(str(model), "--out", str(tmp_path / "out"), *options)
    assert code == 2
    assert message in text.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_told_what_there_is(tmp_path: Path) -> None:
    code, text = run("nobody", "--budget", "1", "--out", str(tmp_path))
    assert code == 2
    assert "neither a folder with manifest.json nor one of" in text
    assert "minilm-2d" in text
