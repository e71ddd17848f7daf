from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.core import plan_cost
from server.served import Served
from tests.tiny import TASKS


@pytest.fixture(scope="module")
def detail(client: TestClient) -> dict[str, Any]:
    response = client.get("/v1/models/tiny")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def test_the_list_is_readable_by_openai_clients(client: TestClient, served: Served) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    (entry,) = found["data"]
    assert entry == {
        "id": "tiny",
        "object": "model",
        "root": "tiny",
        "created": served.created_s,
        "owned_by": "rheostat",
        "family": "slimmable",
        "version": "1",
        "tasks": list(TASKS),
        "matryoshka_dimensions": None,
        "num_subnets": 4**5,
    }


def test_a_model_in_full_repeats_its_entry(client: TestClient, detail: dict[str, Any]) -> None:
    (entry,) = client.get("/v1/models").json()["data"]
    assert {name: detail[name] for name in entry} == entry


def test_axes_are_those_of_the_space_cheapest_value_first(
    detail: dict[str, Any], served: Served
) -> None:
    axes = {axis["name"]: axis for axis in detail["axes"]}
    assert list(axes) == [axis.name for axis in served.elastic.space.axes]
    assert axes["encoder.stage1"]["task"] is None
    assert axes["decoder.fish"] == {
        "name": "decoder.fish",
        "values": [0.25, 0.5, 0.75, 1.0],
        "kind": "compute",
        "when": "call",
        "task": "fish",
    }


def test_tasks_have_labels_and_the_largest_subnets_score(
    detail: dict[str, Any], served: Served
) -> None:
    assert list(detail["task_details"]) == list(TASKS)
    for task, labels in TASKS.items():
        entry = detail["task_details"][task]
        assert (entry["kind"], entry["metric"]) == ("classes", "accuracy")
        assert entry["labels"] == list(labels)
        assert entry["score"] == served.table.cells[task].value[-1, -1]


def test_the_input_says_what_an_image_may_be(detail: dict[str, Any]) -> None:
    entry = detail["inputs"]["image"]
    assert (entry["kind"], entry["required"]) == ("image", True)
    assert entry["formats"] == ["PNG", "JPEG", "WEBP"]
    assert (entry["height"], entry["width"]) == (16, 16)


def test_cheapest_and_largest_bound_what_can_be_asked(
    client: TestClient, detail: dict[str, Any], served: Served
) -> None:
    space, shape = served.elastic.space, {"image": served.model.config.input.shape}
    for name, subnet in (("cheapest", space.smallest), ("largest", space.largest)):
        cost = plan_cost(served.elastic.plan(subnet, shape))
        assert detail[name] == {"macs": cost.macs, "flops": cost.flops, "bytes": cost.bytes}
    for field in ("macs", "bytes"):
        cheapest = detail["cheapest"][field]
        for most, status in ((cheapest, 200), (cheapest - 1, 422)):
            response = client.post("/v1/plan", json={"budget": {field: most}})
            assert response.status_code == status
            if status == 200:
                assert response.json()["receipt"][field] == cheapest
            else:
                error = response.json()["error"]
                assert (error["field"], error["feasible"]) == (f"budget.{field}", cheapest)


def test_each_point_of_the_front_is_the_plan_for_its_cost(
    client: TestClient, detail: dict[str, Any]
) -> None:
    assert len(detail["front"]) > 5
    for point in detail["front"]:
        response = client.post("/v1/plan", json={"budget": {"macs": point["macs"]}})
        receipt = response.json()["receipt"]
        assert receipt["quality"] == pytest.approx(point["quality"], abs=2e-3)
        assert receipt["macs"] <= point["macs"]
        assert point["flops"] == 2 * point["macs"]
        assert point["fraction"] == pytest.approx(point["macs"] / detail["largest"]["macs"])


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    response = client.get("/v1/models/huge")
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"] == "model='huge' is not served; one of ['tiny']"
