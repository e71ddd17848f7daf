"""Texts of megabytes, of which a model reads the first few tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from models.inputs.text import MAX_TEXT_CHARS

LONG = "w1 w2 w3 " * 200_000
SHORT = "w1 w2 w3 " * 20  # more than the model takes, too
WORD = "x" * 2_000_000
KSERVE = "/v2/models/tiny-text/infer"


def kserve(text: str, **parameters: str) -> dict[str, Any]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
    return {"inputs": [tensor], "parameters": parameters}


def vector(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    if isinstance(found, list):
        return found
    found.pop("receipt", None)
    found.pop("id", None)
    found.pop("parameters", None)
    return found


CUT: list[tuple[str, Any]] = [
    ("/v1/embeddings", lambda text: {"input": text, "truncate": "right"}),
    ("/v1/embeddings", lambda text: {"input": ["w4", text], "truncate": "left"}),
    ("/embed", lambda text: {"inputs": text}),
    ("/similarity", lambda text: {"inputs": {"source_sentence": text, "sentences": ["w4"]}}),
    ("/rerank", lambda text: {"query": "w4", "texts": [text, "w5"]}),
    ("/v1/rerank", lambda text: {"query": text, "documents": ["w4"], "truncate": "right"}),
    ("/v2/rerank", lambda text: {"model": "tiny-text", "query": "w4", "documents": [text]}),
    ("/v1/similarity", lambda text: {"source": "w4", "texts": [text], "truncate": "left"}),
    (KSERVE, lambda text: kserve(text, truncate="right")),
]


@pytest.mark.parametrize(("path", "body"), CUT)
def test_a_long_text_is_cut_as_a_short_one(text_client: TestClient, path: str, body: Any) -> None:
    found, expected = (text_client.post(path, json=body(text)) for text in (LONG, SHORT))
    assert vector(found) == vector(expected)


REFUSED: list[tuple[str, Any]] = [
    ("/v1/embeddings", lambda text: {"input": text}),
    ("/embed", lambda text: {"inputs": text, "truncate": False}),
    ("/v1/rerank", lambda text: {"query": "w4", "documents": [text]}),
    ("/v1/similarity", lambda text: {"source": text, "texts": ["w4"]}),
    (KSERVE, kserve),
]


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_a_long_text_is_refused_where_it_may_not_be_cut(
    text_client: TestClient, path: str, body: Any
) -> None:
    answer = text_client.post(path, json=body(LONG))
    assert answer.status_code in (400, 422)
    assert "the text has more than 32 tokens; at most 32 are allowed" in answer.text


@pytest.mark.parametrize(("path", "body"), [*CUT, *REFUSED])
def test_a_text_that_cannot_be_cut_is_refused_by_its_characters(
    text_client: TestClient, path: str, body: Any
) -> None:
    answer = text_client.post(path, json=body(WORD))
    assert answer.status_code in (400, 422)
    assert f"at most {MAX_TEXT_CHARS} (max_text_chars)" in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"inputs": LONG}),
        ("/tokenize", {"inputs": [LONG[:100_000]] * 2}),
        ("/decode", {"ids": [4] * (MAX_TEXT_CHARS + 1)}),
        ("/decode", {"ids": [[4] * 33_000] * 4}),
    ],
)
def test_what_cannot_be_cut_is_limited_by_request(
    text_client: TestClient, path: str, body: dict[str, Any]
) -> None:
    answer = text_client.post(path, json=body)
    assert answer.status_code == 422
    assert f"in all; at most {MAX_TEXT_CHARS} (max_text_chars)" in answer.json()["error"]


@contextmanager
def longest_wait(url: str) -> Iterator[list[float]]:
    """Ask for the server's health all the time; the first entry is the longest wait, in seconds."""
    waits, is_over = [0.0], threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not is_over.is_set():
                start = time.perf_counter()
                client.get("/healthz")
                waits[0] = max(waits[0], time.perf_counter() - start)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        is_over.set()
        thread.join()


@pytest.mark.parametrize(
    "text", [LONG * 5, WORD * 4, "w1" + " " * 9_000_000, "e\u0301" * 3_000_000, "漢" * 5_000_000]
)
@pytest.mark.parametrize("truncate", [None, "right"])
def test_others_are_answered_meanwhile(text_url: str, text: str, truncate: str | None) -> None:
    with longest_wait(text_url) as waits, httpx.Client(base_url=text_url, timeout=60) as client:
        body = {"model": "tiny-text", "input": text, "truncate": truncate}
        answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code in (200, 400)
    assert waits[0] < 1  # tokenised whole, and under the interpreter's lock, seconds
