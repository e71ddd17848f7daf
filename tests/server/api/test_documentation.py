"""The OpenAPI document says what the server does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient

from server.api.documentation import SAMPLES
from server.errors import RheostatError
from tests.server.samples import image, text_of

PUBLIC = {"/healthz", "/readyz", "/health", "/ping", "/v2/health/live", "/v2/health/ready"}
INFERENCE = {
    "/v1/infer": {404, 413, 415, 422, 429, 504},
    "/v1/embeddings": {400, 404, 413, 415, 429, 504},
    "/embeddings": {400, 404, 413, 415, 429, 504},
    "/v1/classify": {404, 413, 415, 422, 429, 504},
    "/v1/similarity": {404, 413, 415, 422, 429, 504},
    "/v1/rerank": {400, 404, 413, 415, 422, 424, 429, 504},
    "/v2/rerank": {400, 404, 413, 415, 422, 424, 429, 504},
    "/rerank": {400, 404, 413, 415, 422, 424, 429, 504},
    "/embed": {400, 404, 413, 415, 422, 424, 429, 504},
    "/": {400, 404, 413, 415, 422, 424, 429, 504},
    "/predict": {400, 404, 413, 415, 422, 424, 429, 504},
    "/similarity": {400, 404, 413, 415, 422, 424, 429, 504},
    "/v2/models/{model}/infer": {400, 404, 413, 429, 504},
}
ERROR_MODELS = {
    "/v1/embeddings": ["OpenAIError"],
    "/embed": ["TeiError"],
    "/rerank": ["TeiError", "ErrorAnswer"],
    "/v1/rerank": ["ErrorAnswer", "TeiError"],
    "/v2/rerank": ["CohereError", "TeiError"],
    "/v1/infer": ["ErrorAnswer"],
    "/v2/models/{model}/infer": ["KServeError"],
}


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def statuses(operation: dict[str, Any]) -> set[int]:
    return {int(status) for status in operation["responses"]}


def test_every_route_of_the_app_is_documented(client: TestClient, document: dict[str, Any]) -> None:
    paths = {path for _, path, _ in operations(document)}
    assert paths >= {*INFERENCE, *PUBLIC, "/v1/plan", "/v1/models", "/info", "/metrics"}


@pytest.mark.parametrize("path", INFERENCE)
def test_inference_documents_each_of_its_errors(document: dict[str, Any], path: str) -> None:
    found = statuses(document["paths"][path]["post"])
    assert found == {200, 400, 401, 403, 408, 431, 500, 503, *INFERENCE[path]}


def test_all_but_public_paths_may_refuse_a_key(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        assert ({401, 403} <= statuses(operation)) == (path not in PUBLIC), path
        assert ("security" in operation) == (path not in PUBLIC), path


def test_no_error_has_the_frameworks_shape(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize("path", ERROR_MODELS)
def test_errors_have_the_shapes_of_the_paths_protocols(document: dict[str, Any], path: str) -> None:
    schema = document["paths"][path]["post"]["responses"]["429"]["content"]["application/json"]
    references = [f"#/components/schemas/{name}" for name in ERROR_MODELS[path]]
    found = schema["schema"]
    assert [one["$ref"] for one in found.get("anyOf", [found])] == references


def is_valid(document: dict[str, Any], name: str, value: dict[str, Any]) -> bool:
    """Whether an example is of a schema, but for the nulls that FastAPI leaves out of documents."""
    schemas = document["components"]["schemas"]

    def filled(name: str, value: dict[str, Any]) -> dict[str, Any]:
        schema = schemas[name]
        nulls = {
            key: None for key in schema["required"] if "null" in str(schema["properties"][key])
        }
        inner = {
            key: filled(schema["properties"][key]["$ref"].rpartition("/")[2], found)
            if isinstance(found, dict) and "$ref" in schema["properties"].get(key, {})
            else found
            for key, found in value.items()
        }
        return {**nulls, **inner}

    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.is_valid(schema, filled(name, value))


def test_every_error_that_is_documented_has_an_example_of_its_schema(
    document: dict[str, Any],
) -> None:
    num_checked = 0
    for _, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400 or "content" not in response:
                continue
            (content,) = response["content"].values()
            models = re.findall(r"schemas/(\w+)", str(content["schema"]))
            # A 400 of TEI's, of an empty list, is made by routes alone.
            assert content.get("examples") or status == "400", (path, status)
            for example in content.get("examples", {}).values():
                assert any(is_valid(document, name, example["value"]) for name in models), (
                    path,
                    status,
                    example,
                )
                num_checked += 1
    assert num_checked > 200


def test_what_tells_clients_when_to_come_back_is_documented(document: dict[str, Any]) -> None:
    headers = document["paths"]["/v1/infer"]["post"]["responses"]["429"]["headers"]
    assert {"retry-after", "retry-after-ms"} <= set(headers)


def tree(kind: type[RheostatError]) -> set[type[RheostatError]]:
    return {kind}.union(*(tree(child) for child in kind.__subclasses__()))


def test_there_is_a_sample_of_every_error_that_can_be_raised() -> None:
    missing = tree(RheostatError) - {type(sample) for sample in SAMPLES}
    assert not [kind for kind in missing if not kind.__subclasses__()]


def test_bodies_read_by_hand_are_documented_in_full(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/infer"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    fields = content["application/json"]["schema"]["properties"]
    asked = {"model", "tasks", "preferences", "budget", "priority", "side", "adapter"}
    assert set(fields) == {"inputs", "image", "images", *asked}
    assert "$ref" not in str(content)
    plan = document["paths"]["/v1/plan"]["post"]["requestBody"]["content"]["application/json"]
    assert set(plan["schema"]["properties"]) == {"tokens", *asked}


def test_documented_answers_match_real_ones(client: TestClient, document: dict[str, Any]) -> None:
    answer = client.post("/v1/infer", json={"image": text_of(image())}).json()
    schemas = document["components"]["schemas"]
    assert set(answer["receipt"]) == set(schemas["Receipt"]["properties"])
    assert set(answer["outputs"][0]["fish"]) == set(schemas["ClassesOutput"]["properties"])
