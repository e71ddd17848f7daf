"""Null in an optional field means that it is not given, on every operation of the document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.api.kserve.inference import Parameters
from server.app import create_app
from server.settings import Settings
from tests.server.samples import form, image, text_of
from tests.tiny_headed import CLASSIFIER

Body = dict[str, Any]
JSON = "application/json"
FORM = "multipart/form-data"
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1 w2"]}
RANK: Body = {"query": "w1", "documents": ["w2", {"text": "w3"}]}
TEI_RANK: Body = {"query": "w1", "texts": ["w2", "w3"]}
IMAGE = text_of(image())
INDEX: Body = {"name": "all", "model": "tiny-text", "documents": [{"id": "a", "text": "w1"}]}
BODIES: dict[str, list[Body]] = {
    "/v1/infer": [{"image": IMAGE}, {"images": [IMAGE]}],
    "/v1/plan": [{"model": "tiny"}, {"model": "tiny-text", "tokens": 4}],
    "/v1/embeddings": [{"input": "w1", "dimensions": 8}],
    "/embeddings": [{"input": ["w1", "w2"]}],
    "/v1/classify": [{"input": "w1", "labels": ["w2", "w3"]}],
    "/v1/similarity": [{"source": "w1", "texts": ["w2"]}],
    "/v1/rerank": [RANK, TEI_RANK, {"query": "w1", "index": "all", "ids": ["a"]}],
    "/v2/rerank": [RANK, TEI_RANK],
    "/rerank": [RANK, TEI_RANK],
    "/": [{"inputs": "w1"}],
    "/embed": [{"inputs": "w1"}],
    "/similarity": [{"inputs": {"source_sentence": "w1", "sentences": ["w2"]}}],
    "/predict": [{"model": CLASSIFIER, "inputs": "w1"}],
    "/tokenize": [{"inputs": "w1"}],
    "/decode": [{"ids": [2, 8, 3]}],
    "/v2/models/{model}/infer": [
        {"inputs": [TENSOR], "outputs": [{"name": "embedding", "parameters": {}}]}
    ],
    "/v1/indexes": [
        {"name": "all", "model": "tiny-text", "documents": [{"id": "a", "text": "w1"}]}
    ],
    "/v1/neighbors": [{"index": "all", "query": "w1"}],
    "/v1/clients/{client}": [{"weight": 2.0, "quota": {"requests_per_s": 1e6}}],
    "/v1/keys": [{"scopes": ["metrics"]}],
}
INNER: dict[str, Body] = {"cascade": {"depth": 1, "keep": 1}}  # that need more than nothing
OTHER_EACH_TIME = {
    *("request_id", "id", "key", "created", "milliseconds", "predicted_run_ms", "batch_size"),
    *("batch_sizes", "shared_flops"),
}


@pytest.fixture(scope="module")
def admin(all_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client that may do everything; with keys, so that making one changes nothing."""
    database = f"sqlite:///{tmp_path_factory.mktemp('nulls') / 'clients.db'}"
    own = all_settings.model_copy(update={"database": database})
    with TestClient(create_app(own)) as client:
        key = client.post("/v1/keys", json={"scopes": ["admin", "infer", "metrics"]}).json()["key"]
        client.headers["authorization"] = f"Bearer {key}"
        client.put("/v1/clients/shop", json={})
        client.post("/v1/indexes", json=INDEX)
        yield client


def operations(client: TestClient) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the method and the schemas by content type of every operation that takes a body."""
    return {
        path: (method, operation["requestBody"]["content"])
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }


def nulls(schema: dict[str, Any], body: Body) -> Iterator[tuple[str, Body, Body]]:
    """Yield a field's path, the body with null there, and the body without it."""
    for name, field in schema["properties"].items():
        options = field.get("anyOf", [field])
        if name not in schema.get("required", ()):
            assert {"type": "null"} in options or field.get("type") == "null", name
            yield name, {**body, name: None}, {k: v for k, v in body.items() if k != name}
        for option in options:
            if "properties" in option:
                inner = body.get(name) or INNER.get(name, {})
                for path, given, left_out in nulls(option, inner):
                    yield f"{name}.{path}", {**body, name: given}, {**body, name: left_out}
            if "properties" in option.get("items", {}) and body.get(name):
                first, *rest = body[name]
                for path, given, left_out in nulls(option["items"], first):
                    yield (
                        f"{name}[0].{path}",
                        {**body, name: [given, *rest]},
                        {**body, name: [left_out, *rest]},
                    )


def steady(value: Any) -> Any:
    """Return an answer without what differs from one time to the next."""
    if isinstance(value, list):
        return [steady(one) for one in value]
    if not isinstance(value, dict):
        return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
    return {
        key: steady(one)
        for key, one in value.items()
        if key not in OTHER_EACH_TIME and not key.endswith("_ms")
    }


def ask(client: TestClient, method: str, path: str, body: Body) -> tuple[int, Any]:
    address = path.format(model="tiny-text", client="shop", key="0")
    answer = client.request(method, address, json=body)
    return answer.status_code, steady(answer.json())


def schema_for(content: dict[str, Any], body: Body) -> dict[str, Any]:
    schema: dict[str, Any] = content[JSON]["schema"]
    options = schema.get("anyOf", [schema])
    (found,) = [
        one for one in options if set(one["required"] if len(options) > 1 else ()) <= set(body)
    ]
    return dict(found)


def test_every_operation_that_takes_a_body_is_tried(admin: TestClient) -> None:
    assert set(operations(admin)) == set(BODIES)


@pytest.mark.parametrize("path", BODIES)
def test_null_in_an_optional_field_is_as_if_it_were_not_there(admin: TestClient, path: str) -> None:
    method, content = operations(admin)[path]
    num_fields = 0
    for body in BODIES[path]:
        status, _ = ask(admin, method, path, body)
        assert status in (200, 201), body
        for field, given, left_out in nulls(schema_for(content, body), body):
            with_null, without = ask(admin, method, path, given), ask(admin, method, path, left_out)
            assert with_null == without, field
            num_fields += 1
    assert num_fields > 0


def test_null_in_the_part_request_of_a_form_is_as_if_it_were_not_there(admin: TestClient) -> None:
    schema = operations(admin)["/v1/infer"][1][FORM]["schema"]["properties"]["request"]
    headers = {"content-type": f"{FORM}; boundary=edge"}

    def send(body: Body) -> tuple[int, Any]:
        parts = (
            ('name="image"; filename="a"', image()),
            ('name="request"', json.dumps(body).encode()),
        )
        answer = admin.post("/v1/infer", content=form(*parts), headers=headers)
        return answer.status_code, steady(answer.json())

    fields = []
    for field, given, left_out in nulls(schema, {"tasks": ["fish"]}):
        assert send(given) == send(left_out), field
        fields.append(field)
    assert {"model", "tasks", "budget.flops", "priority"} <= set(fields)


def test_null_in_a_parameter_of_an_inference_is_as_if_it_were_not_there(admin: TestClient) -> None:
    path = "/v2/models/{model}/infer"
    body = {"inputs": [TENSOR]}
    plain = ask(admin, "post", path, body)
    assert plain[0] == 200
    for name in (*Parameters.model_fields, "preference_sts", "binary_data_output"):
        assert ask(admin, "post", path, {**body, "parameters": {name: None}}) == plain, name
    unknown = ask(admin, "post", path, {**body, "parameters": {"joules": None}})
    assert unknown[0] == 400


def test_null_is_refused_where_a_value_is_needed(admin: TestClient) -> None:
    cases: list[tuple[str, Body]] = [
        ("/v1/embeddings", {"input": None}),
        ("/v1/embeddings", {"input": ["w1", None]}),
        ("/embed", {"inputs": None}),
        ("/v1/rerank", {"query": None, "documents": ["w1"]}),
        ("/v1/rerank", {"query": "w1", "documents": ["w1", None]}),
        ("/v1/rerank", {**RANK, "cascade": {"depth": None, "keep": 1}}),
        ("/v1/keys", {"scopes": None}),
        ("/v2/models/tiny-text/infer", {"inputs": [{**TENSOR, "datatype": None}]}),
    ]
    for path, body in cases:
        answer = admin.post(path, json=body)
        assert answer.status_code in (400, 422), (body, answer.text)
