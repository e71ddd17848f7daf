"""From a public folder of a vision transformer and a folder of images to a served checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.formats import vision
from models.inputs.content import Encoded
from search.offline.whole import answers_of
from server import catalog
from server.cli.main import cli
from tests.models.formats.test_vision import write_folder
from tests.search.offline.test_material import images_folder
from tests.walking import answers_of as run


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_a_classifier_of_images_becomes_elastic_by_agreement(tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_folder(source, kind, 3)
    images = images_folder(tmp_path / "images", count=120)
    arguments = ["elasticize", str(source), "--data", str(images), "--out", str(out)]
    arguments += ["--minutes", "0.05", "--keep", "0.5,0.8", "--name", "mine"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    served = catalog.load(out).choose("mine")
    (task,) = served.elastic.tasks.values()
    assert (task.kind, task.metric) == ("classes", "agreement")
    rows = dict(zip(served.table.rows, served.table.cells["label"].value[:, 0], strict=True))
    whole = served.elastic.space.largest
    assert rows[whole] == 1
    assert 1 / 3 < rows[whole | {"keep": 0.5}] <= 1
    assert "| 0.5 |" in (out / "README.md").read_text()
    files = sorted(images.iterdir())[:20]
    expected = answers_of(vision.read(source, "mine"), list(files))
    shapes = {"image": (3, 8, 8)}
    plan = served.elastic.plan(whole, shapes)
    decoded = [served.elastic.inputs["image"].type.decode(Encoded(f.read_bytes())) for f in files]
    found = run(plan, {"image": torch.stack(decoded)})["label"]
    np.testing.assert_allclose(found.double().numpy(), expected, atol=2e-2)


def test_a_bare_encoder_of_images_is_measured_by_a_probe(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_folder(source, "deit", None)
    images = images_folder(tmp_path / "images", ("cat", "dog"), 120)
    arguments = ["elasticize", str(source), "--data", str(images), "--out", str(out)]
    arguments += ["--minutes", "0.03", "--keep", "0.6", "--rankings", "contribution"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    served = catalog.load(out).choose(None)
    (task,) = served.elastic.tasks.values()
    assert (task.name, task.kind, task.metric) == ("classification", "embedding", "accuracy")


def test_a_model_of_texts_takes_no_images(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_folder(source, "vit", 3)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"text {i}" for i in range(60)))
    arguments = ["elasticize", str(source), "--data", str(texts), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "the model takes inputs of kind 'image'" in result.output.replace("\n", " ")
