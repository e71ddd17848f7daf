"""A model of several maps over HTTP: a request sends those that it has, and pays for those."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.backends.torch import TorchBackend
from models.space import Subnet
from models.train.vision import Pictures
from search.offline.modalities_training import table_of
from search.offline.modalities_training import test_scores as scores_of
from search.quality.table import TABLE
from server.app import create_app
from server.settings import Settings
from tests.conformance.fixtures.modalities import modalities
from tests.models.train.test_modalities import made_up
from tests.server.samples import image, text_of

DEPTH = np.linspace(1, 4, 96).reshape(1, 8, 12).tolist()


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return made_up()


@pytest.fixture(scope="module")
def client(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder, model = tmp_path_factory.mktemp("modalities"), modalities()
    table_of(model, pictures, TorchBackend()).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "modalities", torch.float32, [TABLE])
    with TestClient(create_app(Settings(models=folder, policy="fixed"))) as client:
        yield client


def asked(client: TestClient, inputs: dict[str, Any], **rest: Any) -> tuple[Any, Any]:
    response = client.post("/v1/infer", json={"inputs": inputs, "tasks": ["normals"], **rest})
    assert response.status_code == 200, response.text
    answer = response.json()
    values = base64.b64decode(answer["outputs"][0]["normals"]["values"])
    return np.frombuffer(values, "<f4"), answer["receipt"]


def test_a_request_sends_what_it_has_and_pays_for_that(client: TestClient) -> None:
    photo, model = text_of(image(0, 12, 8)), modalities()
    for inputs in ({"image": photo}, {"depth": DEPTH}, {"image": photo, "depth": DEPTH}):
        normals, receipt = asked(client, inputs, budget={"strict": True})
        assert receipt["subnet"]["inputs"] == "+".join(inputs)
        assert np.linalg.norm(normals.reshape(3, 96), axis=0) == pytest.approx(1, abs=1e-5)
        shapes = model.inputs.plan_shapes(names=list(inputs))
        plan = model.plan(Subnet(receipt["subnet"]), shapes, ["normals"])
        assert receipt["flops"] == plan.cost.flops
        least = model.plan(
            model.space.smallest | {"inputs": "+".join(inputs)}, shapes, ["normals"]
        ).cost
        _, cheap = asked(client, inputs, budget={"flops": least.flops})
        assert cheap["flops"] == least.flops


def test_no_input_or_another_is_refused(client: TestClient) -> None:
    for inputs, message in (({}, "one input or more"), ({"sound": DEPTH}, "'sound' is not known")):
        response = client.post("/v1/infer", json={"inputs": inputs})
        assert response.status_code in (400, 422)
        assert message in response.text
    response = client.post("/v1/infer", json={"inputs": {"depth": [[1.0]]}})
    assert "shape [1, 1] must end with [1, 8, 12]" in response.text


def test_tables_and_tests_have_each_set_of_inputs(pictures: Pictures) -> None:
    model = modalities()
    table, tested = (
        table_of(model, pictures, TorchBackend()),
        scores_of(model, pictures, TorchBackend(), 0),
    )
    assert table.rows == tuple(model.space)
    for row in model.space:
        place = table.locate("normals", row)
        assert place is not None
        cell = table.at("normals", *place)
        which = f"{row['inputs']}, tokens {row['tokens']:g}, width {row['width']:g}"
        assert tested[which]["normals"].value == pytest.approx(cell.value, rel=1e-5)
        assert tested[which]["normals"].stderr == pytest.approx(cell.stderr, rel=1e-4)
    assert "depth, tokens 0.5, width 1, random" in tested
