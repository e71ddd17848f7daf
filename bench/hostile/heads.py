"""Heads that are long, many, malformed or cut off, and options in headers."""

from __future__ import annotations

import json
from random import Random

from bench.hostile.case import Case, Target, head, post_json, text_body

_PATHS = ("/healthz", "/v1/models", "/metrics", "/v1/embeddings", "/nowhere", "/v2/health/live")
_NAMES = ("a", "X-Long", "Cookie", "Accept", "x-request-id", "Forwarded", "Range", "If-Match")
_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "get", "BREW", "G" * 300)
_OPTIONS = (
    "flops",
    "macs",
    "fraction",
    "min-quality",
    "latency-ms",
    "strict",
    "priority",
    "joules",
)
_VALUES = (
    *("1", "0.5", "1e12", "-1", "0", "nan", "inf", "1e999", "", "true", "True", "yes", "0x10"),
    *("1_000", "1,2", "9" * 400, "\u00e9", "\x00", "1 2", "0.0000001", "+3", ".5", "5."),
)
_MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz\r\n\r\n",
    b"GET  /healthz  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /healthz FTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n: empty\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nA\x00: b\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nA: b\x00c\r\n\r\n",
    b"GET /heal\x00thz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00\x01\x02\x03\r\n\r\n",
    b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 60 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /v1/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n{}",
)
_UNENDED = (b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: a", b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
_ODD = (
    ("Host", "other"),
    ("Expect", "100-continue"),
    ("Expect", "202-wonder"),
    ("Upgrade", "websocket"),
    ("Upgrade", "h2c"),
    ("Connection", "keep-alive, Upgrade, , close"),
    ("Content-Length", "0"),
    ("Transfer-Encoding", "identity"),
    ("Range", "bytes=0-99999999999999999999"),
    ("Accept-Encoding", "gzip;q=9, *;q=nonsense"),
    ("Accept", "text/html;q=" + "0" * 99),
    ("Origin", "null"),
    ("Access-Control-Request-Method", "POST"),
    ("Cookie", "a=b; " * 200),
    ("Authorization", "Bearer " + "x" * 500),
    ("x-api-key", "\x7f\x01"),
    ("x-request-id", "spaces and \u00fcmlauts"),
    ("traceparent", "00-zz"),
    ("x-stainless-read-timeout", "0.0001"),
    ("Inference-Header-Content-Length", "99999999999999999999"),
)
_TARGETS = (
    *(
        "/%00",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//",
        "/v1//models",
        "/v1/models/%ff%fe",
        "*",
        "/?" * 99,
    ),
    *(
        "/v1/models/" + "a" * 3000,
        "/info?model=%00",
        "/info?" + "&".join(f"a{i}=b" for i in range(500)),
    ),
    *(
        "http://elsewhere/healthz",
        "/v2/models//infer",
        "/v1/models/..%2f..",
        "/healthz#part",
        "/\u00e9",
    ),
)


def long(random: Random, target: Target) -> Case:
    """Make a head of one long line or of many lines, ended or not."""
    path = random.choice(_PATHS)
    size = int(10 ** random.uniform(2, 6))
    if random.random() < 0.5:
        what, lines = f"a header of {size} bytes", [(random.choice(_NAMES), "v" * size)]
    else:
        count = min(size, 30_000)
        what, lines = f"{count} headers", [(random.choice(_NAMES), "v")] * count
    whole = head(target, path, lines, "GET")
    if random.random() < 0.3:
        return Case(f"{what}, cut off", [whole[: random.randrange(len(whole) - 4)]], is_owed=False)
    return Case(what, [whole], method="GET")


def malformed(random: Random, target: Target) -> Case:
    """Make bytes that are no head, or hardly one."""
    roll = random.random()
    if roll < 0.15:
        return Case("an unended head", [random.choice(_UNENDED)], is_owed=False)
    if roll < 0.6:
        i = random.randrange(len(_MALFORMED))
        whole = _MALFORMED[i]
        # Some of these are in order as far as a server can tell, and wait for their bodies.
        return Case(f"malformed head {i}", [whole], is_owed=b"9" * 60 not in whole, method="GET")
    wrong = bytearray(head(target, random.choice(_PATHS), method="GET"))
    for _ in range(random.randint(1, 8)):
        wrong[random.randrange(len(wrong) - 4)] = random.randrange(256)
    # A changed method or length may let the server wait for a body.
    return Case("a head with wrong bytes", [bytes(wrong)], is_owed=False)


def odd(random: Random, target: Target) -> Case:
    """Make a head that is well-formed and means something odd."""
    roll = random.random()
    if roll < 0.25:
        method = random.choice(_METHODS)
        path = random.choice(_PATHS)
        return Case(f"{method[:9]} {path}", [head(target, path, method=method)], method=method)
    if roll < 0.5:
        path = random.choice(_TARGETS)
        return Case(f"target {path[:30]!r}", [head(target, path, method="GET")], method="GET")
    lines = random.sample(_ODD, random.randint(1, 3))
    what = ", ".join(f"{name}: {value[:20]}" for name, value in lines)
    whole = head(target, random.choice(_PATHS), lines, "GET")
    named = {name for name, _ in lines}
    is_owed = not named & {"Upgrade", "Transfer-Encoding"}
    return Case(what, _dribbled(random, whole), is_owed=is_owed, method="GET")


def options(random: Random, target: Target) -> Case:
    """Make `x-rheostat-*` headers that can, or cannot, be used."""
    lines = [
        (f"x-rheostat-{random.choice(_OPTIONS)}", random.choice(_VALUES))
        for _ in range(random.randint(1, 3))
    ]
    what = ", ".join(f"{name}: {value[:20]!r}" for name, value in lines)
    if random.random() < 0.3:
        path = random.choice(_PATHS)
        return Case(f"{what} at {path}", [head(target, path, lines, "GET")], method="GET")
    bodies = {
        "/v1/embeddings": text_body(target),
        "/embed": {"inputs": "a text", "model": target.text_model},
        "/v1/plan": {"model": target.text_model, "tokens": 5},
        "/v2/rerank": {"query": "a", "documents": ["b"], "model": target.text_model},
        "/tokenize": {"inputs": "a text", "model": target.text_model},
    }
    path = random.choice(list(bodies))
    if any(ord(c) > 126 or ord(c) < 32 for _, value in lines for c in value):
        body = json.dumps(bodies[path]).encode()
        whole = head(target, path, [("Content-Type", "application/json"), *lines], length=len(body))
        return Case(f"{what} at {path}", [whole + body])
    return Case(f"{what} at {path}", [post_json(target, path, bodies[path], lines)])


def _dribbled(random: Random, whole: bytes) -> list[bytes]:
    """Return bytes in one piece, or cut at places where parsers stumble."""
    if random.random() < 0.5:
        return [whole]
    cuts = sorted(random.sample(range(1, len(whole)), 3))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


MAKERS = (long, malformed, odd, options)
