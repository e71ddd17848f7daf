"""Requests of the Open Inference Protocol that tests share."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.server.samples import image

HEADER = "Inference-Header-Content-Length"
IMAGES = [image(0), image(1, 32, 24), image(2)]
TEXTS = ["w1 w2 w3", "w4"]
IDS = [[2, 9, 3, 0], [2, 10, 11, 3]]
MASK = [[1, 1, 1, 0], [1, 1, 1, 1]]


def pixels(data: bytes) -> NDArray[np.uint8]:
    """Return an encoded image's pixels, shape [height, width, 3]."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    """Return an input tensor as JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def text_request(*texts: str, **fields: Any) -> dict[str, Any]:
    """Return a request for the vectors of texts."""
    return {"inputs": [tensor("text", "BYTES", [len(texts)], list(texts))], **fields}


def framed(request: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request whose tensors stand behind its JSON."""
    text = json.dumps(request).encode()
    return b"".join([text, *tensors]), {HEADER: str(len(text))}


def binary(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    """Return an input tensor whose bytes stand behind the JSON."""
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": size},
    }


def refused(response: httpx2.Response, status: int = 400) -> str:
    """Return what an error says; its body is a sentence and nothing else."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    message = body["error"]
    assert isinstance(message, str)
    assert len(message) < 1000
    return message


def answered(response: httpx2.Response) -> dict[str, NDArray[Any]]:
    """Return the outputs of an answer, wherever they stand in it."""
    assert response.status_code == 200, response.text[:500]
    size = int(response.headers.get(HEADER, len(response.content)))
    body, behind = json.loads(response.content[:size]), response.content[size:]
    found = {}
    for output in body["outputs"]:
        num_bytes = output.get("parameters", {}).get("binary_data_size")
        if num_bytes is None:
            flat = np.array(output["data"])
        else:
            flat, behind = np.frombuffer(behind[:num_bytes], "<f4"), behind[num_bytes:]
        found[output["name"]] = flat.reshape(output["shape"])
    assert not behind
    return found
