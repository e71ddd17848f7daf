"""Multipart bodies with odd boundaries, parts, names and ends."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from bench.hostile.case import CRLF, Case, Target, post
from bench.hostile.images import plain_image

_BOUNDARIES = (
    "edge",
    "a" * 70,
    "a" * 3000,
    "'()+_,-./:=?",
    "two words",
    "--",
    "-",
    "\u00e9",
    "x;y",
    "",
)
_NAMES = (
    'name="image"; filename="a.png"',
    'name="image"',
    'name="request"',
    'name="request"; filename="r.json"',
    'name="other"',
    'filename="a.png"',
    "name=image; filename=a",
    "name=\"image\"; filename*=UTF-8''%e2%82%ac.png",
    'name="image"; filename=""',
    'name="\u00efmage"; filename="a"',
    'name="image"; filename="' + "f" * 5000 + '"',
    'name="image\x00"; filename="a"',
    "",
)
_TYPES = (
    "multipart/form-data",
    "Multipart/Form-Data",
    "multipart/mixed",
    "multipart/form-data;x=y",
)
_REQUESTS: tuple[Any, ...] = (
    {},
    None,
    [],
    {"tasks": None, "budget": None, "preferences": None, "model": None, "priority": None},
    {"budget": {"flops": None, "strict": None}},
    {"budget": {"fraction": 0.5}},
    {"unknown": 1},
    {"image": "x"},
    "text",
)


def _part(random: Random, target: Target) -> bytes:
    content = random.choice(
        (
            plain_image(),
            b"",
            b"not an image",
            json.dumps(random.choice(_REQUESTS)).encode(),
            random.randbytes(random.choice((1, 100, 10_000))),
            CRLF * 50,
            b"--edge",
        )
    )
    lines = [f"Content-Disposition: form-data; {random.choice(_NAMES)}"]
    if random.random() < 0.3:
        lines.append(f"Content-Type: {random.choice(('image/png', 'text/plain', 'x' * 2000, ''))}")
    if random.random() < 0.1:
        lines.append("Content-Transfer-Encoding: base64")
    if random.random() < 0.05:
        lines += ["X-Filler: v"] * 2000
    return "\r\n".join(lines).encode() + CRLF + CRLF + content


def form(random: Random, target: Target) -> Case:
    """Make a form of a few or very many parts, in order or not."""
    boundary = random.choice(_BOUNDARIES)
    count = random.choice((0, 1, 1, 2, 2, 3, 5, 40, 400))
    parts = [_part(random, target) for _ in range(count)]
    if random.random() < 0.1 and parts:
        parts[0] = parts[0] + _joined("inner", parts)
    body = _joined(boundary, parts)
    match random.randrange(8):
        case 0:
            body = body[: random.randrange(len(body) + 1)]
        case 1:
            body = b"a preamble" + CRLF + body + b"an epilogue"
        case 2:
            body = body.replace(CRLF, b"\n")
    quoted = f'"{boundary}"' if random.random() < 0.5 else boundary
    kind = f"{random.choice(_TYPES)}; boundary={quoted}"
    if random.random() < 0.05:
        kind = "multipart/form-data"
    return Case(f"a form of {count} parts, {kind[:40]}", [post(target, "/v1/infer", body, kind)])


def whole_form(random: Random, target: Target) -> Case:
    """Make a form that is in order, with nulls in optional fields; it must be understood."""
    nulls = {"tasks": None, "budget": None, "preferences": None, "priority": None}
    asked: dict[str, Any] = {"model": target.image_model}
    for name in random.sample(list(nulls), random.randint(0, len(nulls))):
        asked[name] = None
    head = b'Content-Disposition: form-data; name="%s"%s\r\n\r\n'
    parts = [
        head % (b"image", b'; filename="a"') + plain_image(),
        head % (b"request", b"") + json.dumps(asked).encode(),
    ]
    random.shuffle(parts)
    boundary = f"edge{random.randrange(10**9)}"
    kind = f"multipart/form-data; boundary={boundary}"
    wants = (200, 429, 503) if target.image_model else ()
    return Case(
        "a whole form", [post(target, "/v1/infer", _joined(boundary, parts), kind)], wants=wants
    )


def _joined(boundary: str, parts: list[bytes]) -> bytes:
    edge = b"--" + boundary.encode("utf-8", "replace")
    return b"".join([*(edge + CRLF + part + CRLF for part in parts), edge + b"--" + CRLF])


MAKERS = (form, form, whole_form)
