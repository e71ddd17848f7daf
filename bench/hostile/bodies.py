"""Bodies in chunks, with trailers, compressed, cut off or wrong."""

from __future__ import annotations

import gzip
import json
import zlib
from random import Random

from bench.hostile.case import CRLF, Case, Target, head, text_body

_JSON = ("Content-Type", "application/json")
_CHUNKED = ("Transfer-Encoding", "chunked")
_BOMB_BYTES = 60_000_000
_BOMBS: dict[str, bytes] = {}
_PATHS = ("/v1/embeddings", "/embed", "/v2/rerank", "/v1/infer", "/tokenize", "/v2/models/{}/infer")
_ENCODINGS = ("gzip", "deflate", "GZIP", "gzip, gzip", "identity", "br", "zstd", "x-gzip", "", "\t")
_WRONG_SIZES = (
    *(b"", b"-1", b"xyz", b"0x5", b" 5", b"5 ", b"+5", b"1_0", b"\x00", b"5;" + b"e" * 100_000),
    *(b"F" * 16, b"F" * 17, b"0" * 100_000 + b"5", b"7fffffffffffffff", b"\xd9\xa5"),
)
_TRAILERS = (
    b"a: b\r\n",
    b"a: b\r\n" * 5000,
    b"a: " + b"v" * 200_000 + b"\r\n",
    b"no colon\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: elsewhere\r\n",
    b"x-rheostat-flops: 1\r\n",
    b"\x00: \x00\r\n",
    b": v\r\n",
)


def chunked(random: Random, target: Target) -> Case:
    """Make a body in chunks that is in order, however odd; it must be understood."""
    body = json.dumps(text_body(target)).encode()
    largest = random.choice((1, 2, 3, 7, 1000))
    chunks, rest = [], body
    while rest:
        size = random.randint(1, largest)
        chunks.append(rest[:size])
        rest = rest[size:]
    spelled = [_size(random, len(chunk)) + CRLF + chunk + CRLF for chunk in chunks]
    pieces = [head(target, "/v1/embeddings", [_JSON, _CHUNKED])]
    pieces += spelled if random.random() < 0.3 else [b"".join(spelled)]
    pieces.append(b"0" * random.randint(1, 3) + CRLF + CRLF)
    if target.text_model is None:
        return Case("chunks", pieces)
    return Case(f"chunks of up to {largest}", pieces, wants=(200, 429, 503))


def broken_chunks(random: Random, target: Target) -> Case:
    """Make chunks with wrong sizes, odd trailers, or no end."""
    body = json.dumps(text_body(target)).encode()
    start = head(target, random.choice(_PATHS).format("m"), [_JSON, _CHUNKED])
    chunk = b"%x\r\n" % len(body) + body + CRLF
    roll = random.random()
    if roll < 0.4:
        i = random.randrange(len(_TRAILERS))
        pieces = [start, chunk + b"0" + CRLF + _TRAILERS[i] + CRLF]
        return Case(f"trailers {i}", pieces)
    if roll < 0.7:
        i = random.randrange(len(_WRONG_SIZES))
        whole = _WRONG_SIZES[i] + CRLF + body + CRLF + b"0" + CRLF + CRLF
        return Case(f"chunk size {i}", [start, whole], is_owed=False)
    whole = chunk * random.randint(1, 50) + b"0" + CRLF + CRLF
    cut = random.randrange(len(whole) - 1)
    return Case("chunks cut off", [start, whole[:cut]], is_owed=False)


def _size(random: Random, size: int) -> bytes:
    text = b"%x" % size
    text = text.upper() if random.random() < 0.5 else text
    text = b"0" * random.choice((0, 0, 1, 5)) + text
    return text + random.choice((b"", b"", b";a", b";a=b", b';a="b c"', b";" + b"x" * 50))


def compressed(random: Random, target: Target) -> Case:
    """Make a compressed body: in order, twice, cut off, wrong, or far too large."""
    path = random.choice(_PATHS).format(target.text_model or "m")
    body = json.dumps(text_body(target)).encode()
    roll = random.random()
    if roll < 0.04:
        name = random.choice(("gzip", "deflate"))
        return _sent(target, path, "a bomb", _bomb(name), name)
    encoding = random.choice(_ENCODINGS)
    packed = _packed(random, body)
    if roll < 0.5:
        return _sent(target, path, "a compressed body", packed, encoding)
    if roll < 0.65:
        return _sent(
            target, path, "compressed, cut off", packed[: random.randrange(len(packed))], encoding
        )
    if roll < 0.8:
        wrong = bytearray(packed)
        wrong[random.randrange(len(wrong))] ^= 1 << random.randrange(8)
        return _sent(target, path, "compressed, a wrong bit", bytes(wrong), encoding)
    if roll < 0.9:
        many = packed * random.randint(2, 30)
        return _sent(target, path, "several members", many, encoding)
    return _sent(target, path, "bytes and more", packed + random.randbytes(99), encoding)


def _sent(target: Target, path: str, what: str, body: bytes, encoding: str) -> Case:
    lines = [_JSON, ("Content-Encoding", encoding)]
    return Case(
        f"{what} ({encoding[:12]!r}) at {path}", [head(target, path, lines, length=len(body)), body]
    )


def _packed(random: Random, body: bytes) -> bytes:
    match random.randrange(5):
        case 0:
            return gzip.compress(body, mtime=0)
        case 1:
            return zlib.compress(body)
        case 2:
            raw = zlib.compressobj(wbits=-15)
            return raw.compress(body) + raw.flush()
        case 3:
            return gzip.compress(gzip.compress(body, mtime=0), mtime=0)
        case _:
            return body


def _bomb(encoding: str) -> bytes:
    if encoding not in _BOMBS:
        zeros = bytes(_BOMB_BYTES)
        packed = gzip.compress(zeros, mtime=0) if encoding == "gzip" else zlib.compress(zeros)
        _BOMBS[encoding] = packed
    return _BOMBS[encoding]


def lengths(random: Random, target: Target) -> Case:
    """Make a body that is shorter or longer than its head says, or far longer than allowed."""
    body = json.dumps(text_body(target)).encode()
    path = random.choice(_PATHS).format(target.text_model or "m")
    roll = random.random()
    if roll < 0.4:
        said = len(body) + random.choice((1, 100, 10**6))
        return Case(
            "less than promised", [head(target, path, [_JSON], length=said), body], is_owed=False
        )
    if roll < 0.7:
        said = random.randrange(len(body))
        return Case("more than promised", [head(target, path, [_JSON], length=said), body])
    if roll < 0.9:
        said = random.choice((10**8, 10**12, 10**18))
        # Refused by what it says; the client need not send it.
        return Case(f"{said} bytes promised", [head(target, path, [_JSON], length=said)])
    return Case("no length", [head(target, path, [_JSON])])


MAKERS = (chunked, broken_chunks, compressed, lengths)
