from __future__ import annotations

import re

import httpx2
import pytest
from fastapi.testclient import TestClient

from tests.server.api.bad_cases import (
    BODIES,
    FILE,
    FORM,
    FORMS,
    IMAGES,
    PNG,
    QUESTIONS,
    TEXT,
    TYPES,
    Case,
    Wrong,
)
from tests.server.samples import form, text_of


def assert_refused(response: httpx2.Response, case: Case) -> None:
    assert response.status_code == case.status, response.text[:500]
    error = response.json()["error"]
    assert error["type"] == case.error_type
    assert error["field"] == case.field
    assert re.search(case.message, error["message"]), error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert len(response.content) < 10_000  # however much was wrong


def post(client: TestClient, path: str, case: Case) -> httpx2.Response:
    headers = {} if case.content_type is None else {"content-type": case.content_type}
    return client.post(path, content=case.body, headers=headers)


def by_name(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", QUESTIONS, ids=by_name)
def test_a_wrong_question_is_refused_by_its_field(client: TestClient, case: Case) -> None:
    assert isinstance(case.body, str)
    plan = case._replace(body=f"{{{case.body}}}")
    assert_refused(post(client, "/v1/plan", plan), case)
    infer = case._replace(body=f'{{"image": "{TEXT}", {case.body}}}')
    assert_refused(post(client, "/v1/infer", infer), case)
    multipart = form((FILE, PNG), ('name="request"', f"{{{case.body}}}".encode()))
    assert_refused(
        post(client, "/v1/infer", case._replace(body=multipart, content_type=FORM)), case
    )


@pytest.mark.parametrize("field", ["macs", "flops", "fraction", "min_quality"])
def test_a_budget_that_cannot_be_met_names_the_nearest_that_can(
    client: TestClient, field: str
) -> None:
    value = 1e9 if field == "min_quality" else 1e-9
    response = client.post("/v1/plan", json={"budget": {field: value}})
    message = "the best subnet keeps" if field == "min_quality" else "the cheapest subnet needs"
    case = Case("", "", message, f"budget.{field}", 422, "infeasible_budget")
    assert_refused(response, case)
    assert response.headers["x-should-retry"] == "false"
    feasible = response.json()["error"]["feasible"]
    again = client.post("/v1/plan", json={"budget": {field: feasible}})
    assert again.status_code == 200
    closer = feasible * (1.001 if field == "min_quality" else 0.999)
    assert client.post("/v1/plan", json={"budget": {field: closer}}).status_code == 422


@pytest.mark.parametrize("wrong", IMAGES, ids=lambda wrong: wrong.name)
def test_what_is_no_image_is_refused_by_its_place(client: TestClient, wrong: Wrong) -> None:
    text = text_of(wrong.content)
    bodies = {
        "image": f'{{"image": "{text}"}}',
        "images[0]": f'{{"images": ["{text}"]}}',
        "images[2]": f'{{"images": ["{TEXT}", "{TEXT}", "data:image/png;base64,{text}"]}}',
    }
    for field, body in bodies.items():
        case = Case("", body, wrong.message, field)
        assert_refused(post(client, "/v1/infer", case), case)
    case = Case("", form((FILE, PNG), (FILE, wrong.content)), wrong.message, "image[1]")
    case = case._replace(content_type=FORM)
    assert_refused(post(client, "/v1/infer", case), case)


@pytest.mark.parametrize(
    "case",
    [*BODIES, *(case._replace(content_type=FORM) for case in FORMS), *TYPES],
    ids=by_name,
)
def test_a_wrong_body_is_refused(client: TestClient, case: Case) -> None:
    assert_refused(post(client, "/v1/infer", case), case)


def test_a_plan_takes_json_only_and_no_image(client: TestClient) -> None:
    case = Case("", form(), r"must be application/json$", None, 415, "unsupported_media_type", FORM)
    assert_refused(post(client, "/v1/plan", case), case)
    case = Case("", f'{{"image": "{TEXT}"}}', "image is not a field", "image")
    assert_refused(post(client, "/v1/plan", case), case)


def test_a_refused_request_leaves_the_server_as_it_was(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200
    assert "rheostat_queue_depth 0.0" in client.get("/metrics").text
    assert client.post("/v1/infer", json={"image": TEXT}).status_code == 200
