"""Compressed bodies at every protocol."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings
from tests.server.samples import form, image, text_of

LIMIT = 50_000
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Identity, GZIP": gzip.compress,
    "identity": bytes,
}
TEXT: dict[str, Any] = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/infer": {"image": text_of(image())},
    "/v1/plan": {"model": "tiny"},
    "/v1/embeddings": {"input": "w1", "model": "tiny-text"},
    "/v1/similarity": {"source": "w1", "texts": ["w2"], "model": "tiny-text"},
    "/v1/rerank": {"query": "w1", "documents": ["w2"], "model": "tiny-text"},
    "/v2/rerank": {"query": "w1", "documents": ["w2"], "model": "tiny-text"},
    "/rerank": {"query": "w1", "texts": ["w2"]},
    "/embed": {"inputs": "w1"},
    "/": {"inputs": "w1"},
    "/similarity": {"inputs": {"source_sentence": "w1", "sentences": ["w2"]}},
    "/tokenize": {"inputs": "w1"},
    "/decode": {"ids": [1]},
    "/v2/models/tiny-text/infer": {"inputs": [TEXT]},
    "/v2/repository/index": {"ready": True},
    "/v1/clients/shop": {"priority": 1},
}


@pytest.fixture(scope="module")
def client(
    text_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    url = f"sqlite:///{tmp_path_factory.mktemp('encodings') / 'c.db'}"
    more = {"max_body_bytes": LIMIT, "database": url}
    with TestClient(create_app(text_settings.model_copy(update=more))) as client:
        yield client


def send(client: TestClient, path: str, body: bytes, encoding: str, **more: str) -> Any:
    headers = {"content-type": "application/json", "content-encoding": encoding, **more}
    method = "PUT" if "clients" in path else "POST"
    return client.request(method, path, content=body, headers=headers)


def told(response: Any) -> str:
    """Return the message of an error, in the form of any protocol."""
    body = response.json()
    error = body.get("error", body)
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("encoding", CODINGS)
@pytest.mark.parametrize("path", BODIES)
def test_a_compressed_body_is_answered_as_the_plain_one(
    client: TestClient, path: str, encoding: str
) -> None:
    plain = json.dumps(BODIES[path]).encode()
    expected = send(client, path, plain, "")
    response = send(client, path, CODINGS[encoding](plain), encoding)
    assert response.is_success
    assert expected.is_success
    assert len(response.json()) == len(expected.json())


def test_a_compressed_form_is_read(client: TestClient) -> None:
    body = gzip.compress(form(('name="image"; filename="a.png"', image())))
    kind = "multipart/form-data; boundary=edge"
    response = send(client, "/v1/infer", body, "gzip", **{"content-type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize("path", BODIES)
def test_the_limit_holds_for_what_comes_out(client: TestClient, path: str) -> None:
    for size, status in ((LIMIT, {400, 415, 422}), (LIMIT + 1, {413}), (1000 * LIMIT, {413})):
        response = send(client, path, gzip.compress(b" " * size), "gzip")
        assert response.status_code in status, size
        if size > LIMIT:
            assert "exceeds 50000 bytes once decompressed (max_body_bytes)" in told(response)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("encoding", ["br", "gzip, deflate", "gzip, gzip", "zstd", "x" * 1000])
def test_another_coding_is_unsupported(client: TestClient, path: str, encoding: str) -> None:
    response = send(client, path, b"{}", encoding)
    is_kserve = path.startswith("/v2/") and path != "/v2/rerank"  # where all faults are 400
    assert response.status_code == (400 if is_kserve else 415)
    assert "must be one of gzip, deflate, identity" in told(response)
    assert len(told(response)) < 200


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_not_what_it_says_is_refused(client: TestClient, path: str) -> None:
    whole = gzip.compress(json.dumps(BODIES[path]).encode())
    for body, word in (
        (b"{}", "is not gzip"),
        (whole[:-1], "is cut off"),
        (whole + b"x", "goes on behind its end"),
        (whole + whole, "goes on behind its end"),
    ):
        response = send(client, path, body, "gzip")
        assert response.status_code in (400, 422)
        assert word in told(response)


def test_nothing_compressed_is_nothing(client: TestClient) -> None:
    assert send(client, "/v2/repository/index", b"", "gzip").status_code == 200
    assert client.get("/v1/models", headers={"content-encoding": "br"}).status_code == 200


def test_codings_of_several_fields_are_one_list(client: TestClient) -> None:
    fields = [("content-encoding", "gzip"), ("content-encoding", "deflate")]
    headers = [("content-type", "application/json"), *fields]
    assert client.post("/v1/embeddings", content=b"x", headers=headers).status_code == 415
    headers[2] = ("content-encoding", "identity")
    body = gzip.compress(json.dumps(BODIES["/v1/embeddings"]).encode())
    assert client.post("/v1/embeddings", content=body, headers=headers).status_code == 200


def test_a_key_is_asked_for_before_anything_is_decompressed(
    text_settings: Settings, tmp_path: Path
) -> None:
    settings = text_settings.model_copy(update={"database": f"sqlite:///{tmp_path / 'c.db'}"})
    with TestClient(create_app(settings)) as client:
        client.post("/v1/keys", json={"scopes": ["infer"]})
        for encoding in ("gzip", "br"):
            assert send(client, "/v1/embeddings", b"x", encoding).status_code == 401
