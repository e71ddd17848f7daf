from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models.backends.torch import TorchBackend
from models.train.cifar100 import Cifar100, Images
from search.offline.training import CARD, RECORD, by_task, evaluate, finish
from server import catalog
from server.cli.main import cli
from tests.tiny import TASKS, tiny_model


def made_up(n: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(
        pixels=torch.randint(0, 256, (n, 3, 16, 16), generator=generator, dtype=torch.uint8),
        task=torch.arange(n) % 3,
        label=torch.randint(0, 3, (n,), generator=generator),
    )


def test_a_trained_model_becomes_a_checkpoint_that_can_be_served(tmp_path: Path) -> None:
    model, backend = copy.deepcopy(tiny_model()), TorchBackend()
    splits = Cifar100(TASKS, made_up(3, 0), made_up(120, 1), made_up(60, 2))
    finish(model, splits, tmp_path / "out", backend, {"recipe": {"epochs": 0}})

    served = catalog.load(tmp_path / "out").choose("tiny")
    scores = served.finder.find().scores
    assert {score.n for score in scores.values()} == {40}
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["recipe"] == {"epochs": 0}
    card = (tmp_path / "out" / CARD).read_text()
    for row in record["result"]:
        assert f"| {100 * row['test_accuracy']:.1f} |" in card
    assert set(served.manifest.files) == {"model.safetensors", "table.safetensors", RECORD, CARD}


def test_the_table_is_that_of_the_weights_as_stored(tmp_path: Path) -> None:
    model, backend = copy.deepcopy(tiny_model()), TorchBackend()
    splits = Cifar100(TASKS, made_up(3, 0), made_up(120, 1), made_up(60, 2))
    finish(model, splits, tmp_path / "out", backend, {})
    served = catalog.load(tmp_path / "out").choose("tiny")
    selection = served.finder.find()
    accuracy = evaluate(
        served.model, selection.subnet, by_task(served.model, splits.validation), backend
    )
    for task, score in selection.scores.items():
        assert score.value == pytest.approx(accuracy[task], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (
            ["--data", "imagenet"],
            "/nowhere",
            "--data=imagenet: the slimmable recipe reads cifar100",
        ),
        ([], "/nowhere", "/nowhere/cifar100/labels.json"),
        ([], None, "RHEOSTAT_DATA must name the folder"),
    ],
    ids=["data-set", "missing-folder", "no-variable"],
)
def test_training_that_cannot_start_says_why(
    tmp_path: Path, arguments: list[str], data: str | None, message: str
) -> None:
    runner = CliRunner(env={"RHEOSTAT_DATA": data})
    result = runner.invoke(cli, ["train", "slimmable", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in result.output
