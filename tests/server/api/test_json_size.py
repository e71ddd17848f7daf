"""Bodies of many small values."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.api.json_size import MAX_CONTAINERS, MAX_STRINGS, MAX_VALUES, check_json
from server.errors import InvalidRequestError


def check(body: str) -> None:
    asyncio.run(check_json(body.encode()))


@pytest.mark.parametrize(
    ("element", "most", "words"),
    [
        ("[]", MAX_CONTAINERS, "lists and objects"),
        ("{}", MAX_CONTAINERS, "lists and objects"),
        ('""', MAX_STRINGS, "texts and names of fields"),
        ("1", MAX_VALUES, "values"),
    ],
)
def test_what_is_cheap_is_let_through_and_what_is_dear_is_refused(
    element: str, most: int, words: str
) -> None:
    check(f"[{','.join([element] * (most - 1))}]")
    with pytest.raises(InvalidRequestError, match=f"the JSON has more than {most} {words}"):
        check(f"[{','.join([element] * (most + 2))}]")


@pytest.mark.parametrize("text", ['[{,"', "\\", '\\"', '"[', "\\\\[,", "é[漢"])
def test_texts_may_hold_what_they_like(text: str) -> None:
    check(json.dumps({"input": text * 1_200_000}, ensure_ascii=False))
    check(json.dumps({text * 1_200_000: [text]}))


@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/embed", "/v1/rerank", "/v1/infer", "/v2/models/tiny-text/infer"]
)
def test_every_protocol_refuses_such_a_body(text_client: TestClient, path: str) -> None:
    body: dict[str, Any] = {"input": [[1]] * (MAX_CONTAINERS + 1)}
    answer = text_client.post(path, json=body)
    assert 400 <= answer.status_code < 423, answer.text
    assert f"more than {MAX_CONTAINERS} lists and objects" in answer.text


def test_a_part_of_a_form_is_counted_too(text_client: TestClient) -> None:
    part = ("r.json", b"[" * (MAX_CONTAINERS * 3), "application/json")
    image = ("a.png", b"x", "image/png")
    answer = text_client.post("/v1/infer", files={"request": part, "image": image})
    assert answer.status_code == 422
    assert f"more than {MAX_CONTAINERS} lists and objects" in answer.text


def test_the_json_before_raw_tensors_is_counted_alone(text_client: TestClient) -> None:
    url, raw = "/v2/models/tiny-text/infer", b"\x04\0\0\0w1 [" + b"[" * (MAX_CONTAINERS + 10)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]})
    answer = text_client.post(
        url,
        content=head.encode() + raw,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert "lists and objects" not in answer.text
