"""Hostile cases are reproducible, of every kind, and what goes wrong is seen."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from bench.hostile import bodies, forms, heads, images, texts
from bench.hostile.__main__ import faults, make
from bench.hostile.case import Case, Target, head, post_json, text_body
from bench.hostile.watch import Waits, Watcher
from bench.hostile.wire import send

EMBED = {"type": "object", "required": ["input"], "properties": {"input": {"type": "string"}}}
TARGET = Target("127.0.0.1:1", None, "tiny-text", "tiny", [("POST", "/v1/embeddings", EMBED)])
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def answering(raw: bytes) -> Iterator[tuple[str, int]]:
    """Listen, read a head from each connection, give the same bytes and close."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(100_000)
                connection.sendall(raw)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def answer(status: str, body: bytes, *lines: str) -> bytes:
    start = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""])
    return start.encode() + body


@pytest.mark.parametrize("module", [heads, bodies, forms, images, texts])
def test_every_maker_makes_bytes_of_many_kinds(module: object) -> None:
    for maker in module.MAKERS:  # type: ignore[attr-defined]  # all of these have them
        made = [maker(Random(i), TARGET) for i in range(30)]
        assert all(isinstance(piece, bytes) for case in made for piece in case.pieces)
        assert len({b"".join(case.pieces) for case in made}) > 5, maker


def test_a_case_follows_from_its_number_and_the_seed() -> None:
    first = [make(i, 7, TARGET) for i in range(60)]
    assert [make(i, 7, TARGET) for i in range(60)] == first
    assert [make(i, 8, TARGET) for i in range(60)] != first
    assert {group for group, _ in first} == {"heads", "bodies", "forms", "images", "texts"}
    assert make(399, 7, TARGET)[0] == "huge"


@pytest.mark.parametrize(
    ("raw", "wants", "fault"),
    [
        (OK, (200,), None),
        (OK, (400,), "200 instead of 400"),
        (answer("500 x", b"oh"), (), "500: b'oh'"),
        (answer("424 x", b"oh"), (), "424"),
        (answer("503 x", b"oh"), (200, 503), "503 without Retry-After"),
        (answer("503 x", b"oh", "Retry-After: 1"), (200, 503), None),
        (answer("504 x", b""), (), None),
        (answer("200 x", b"[1, NaN]", "Content-Type: application/json"), (), "NaN in an answer"),
        (answer("200 x", b'{"a": ', "Content-Type: application/json"), (), "the answer is no JSON"),
        (b"", (), "no answer"),
        (b"HTTP/1.1 nonsense", (), "no answer"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(
    raw: bytes, wants: tuple[int, ...], fault: str | None
) -> None:
    case = Case("a case", [post_json(TARGET, "/v1/embeddings", text_body(TARGET))], wants=wants)
    with answering(raw) as address:
        found = send(address, case).fault
    assert found is None if fault is None else found is not None and fault in found


def test_no_answer_is_no_fault_where_none_is_owed() -> None:
    case = Case("left", [head(TARGET, "/")[:10]], is_owed=False)
    with answering(b"") as address:
        assert send(address, case) == (None, None)


def test_waits_and_memory_are_faults_beyond_their_limits() -> None:
    watcher = Watcher(("127.0.0.1", 1))
    watcher.waits = Waits([0.01, 0.3], [1.0, 2.0])
    found = faults([], watcher, 100e6, 111e6)
    assert len(found) == 2
    assert "/healthz took 300 ms" in found[0]
    assert "100 MB after warm-up, 111 MB at the end" in found[1]
    watcher.waits = Waits([0.01, 0.19], [1.0, 2.0])
    assert not faults([], watcher, 100e6, 109e6)
