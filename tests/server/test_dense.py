"""A dense model as `rheostat train vision` writes it: its table, and its maps over HTTP."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from models.backends.torch import TorchBackend
from models.families.dense import Dense
from models.train.maps import judge_of, parts_of, score_of
from models.train.vision import UNKNOWN, VOID, Pictures, VisionData
from search.offline.vision_training import finish, image_scores
from server import catalog
from server.app import create_app
from server.settings import Settings
from tests.server.samples import image, text_of
from tests.tiny_dense import tiny_dense

HEIGHT, WIDTH = 12, 18


def made_up(seed: int, images: int = 20) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randint(0, 3, (images, HEIGHT, WIDTH), generator=generator).to(torch.uint8)
    parts[:, :3] = VOID
    depth = 1 + torch.rand(images, 1, HEIGHT, WIDTH, generator=generator)
    depth[::3] = torch.nan
    normals = torch.randn(images, 3, HEIGHT, WIDTH, generator=generator)
    place = torch.randint(0, 3, (images,), generator=generator)
    place[1::2] = UNKNOWN
    return Pictures(
        torch.randint(0, 256, (images, 3, HEIGHT, WIDTH), generator=generator).to(torch.uint8),
        {
            "parts": parts,
            "depth": depth,
            "normals": torch.nn.functional.normalize(normals, dim=1),
            "place": place,
        },
    )


@pytest.fixture(scope="module")
def data() -> VisionData:
    model = tiny_dense()
    splits = (made_up(seed) for seed in range(3))
    return VisionData("made-up", model.tasks, model.config.input, *splits)


@pytest.fixture(scope="module")
def folder(data: VisionData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    images = {"train": 20, "validation": 20, "test": 20}
    model, backend = tiny_dense(), TorchBackend()
    backend.prepare(model)
    finish(model, data, folder, backend, {"images": images}, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(models=folder, policy="fixed"))) as client:
        yield client


def test_the_table_has_the_scores_of_every_subnet_on_what_is_known(
    folder: Path, data: VisionData
) -> None:
    served = catalog.load(folder).choose(None)
    model, table = served.model, served.table
    assert isinstance(model, Dense)
    validation = data.validation
    images = model.config.input.normalise(validation.pixels)
    for subnet in (model.space.smallest, model.space.largest):
        with torch.inference_mode():
            features = model.encode(images, subnet)
            for name, task in model.tasks.items():
                answer = model.decode(name, features, subnet)
                parts = parts_of(judge_of(task)(answer, validation.truth[name]))
                place = table.locate(name, subnet)
                assert place is not None
                cell = table.at(name, *place)
                assert cell.value == pytest.approx(float(score_of(task, parts)), abs=1e-5)
                known = {"parts": 20, "depth": 13, "normals": 20, "place": 10}
                assert cell.n == known[name]
                assert cell.stderr > 0


def test_record_and_card_have_the_test_splits_scores_of_the_front(
    folder: Path, data: VisionData
) -> None:
    rows = json.loads((folder / "train.json").read_text())["result"]
    served = catalog.load(folder).choose(None)
    subnet = served.model.space.check(rows[-1]["subnet"])
    (parts,) = image_scores(served.model, [subnet], data.test, TorchBackend())
    for task, own in parts.items():
        score = float(score_of(served.model.tasks[task], own))
        assert rows[-1]["test"][task] == pytest.approx(score, abs=1e-6)
    assert "| MMACs | fraction | parts: miou | depth: rmse |" in (folder / "README.md").read_text()


def test_maps_come_over_http_within_a_budget(client: TestClient) -> None:
    body = {
        "image": text_of(image(0, 40, 30)),
        "tasks": ["parts", "depth", "normals"],
        "preferences": {"parts": 1, "depth": 3, "normals": 0},
        "budget": {"fraction": 0.7},
    }
    response = client.post("/v1/infer", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    (outputs,) = answer["outputs"]
    picture = Image.open(io.BytesIO(base64.b64decode(outputs["parts"]["png"])))
    assert picture.size == (WIDTH, HEIGHT)
    assert set(np.unique(np.asarray(picture))) <= {0, 1, 2}
    assert (outputs["depth"]["unit"], outputs["depth"]["channels"]) == ("m", ["distance"])
    normals = np.frombuffer(base64.b64decode(outputs["normals"]["values"]), "<f4")
    lengths = np.linalg.norm(normals.reshape(3, HEIGHT, WIDTH), axis=0)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
    assert answer["receipt"]["fraction"] <= 0.7
    assert answer["receipt"]["tasks"]["depth"]["metric"] == "rmse"
    assert "decoder.place" not in answer["receipt"]["subnet"]
