"""Clients that send more than they may have answered, at a real server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from server.http.forms import Forms
from server.http.middleware import RequestId
from server.http.pacing import Joined
from server.http.serving import configured
from server.settings import Settings
from tests.server.bytewise import LONG_S, answered, connected
from tests.server.listening import listening

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n"
MB = 1_000_000
_KERNELS = 20 * MB  # what sockets' buffers may hold of a connection on one machine

num_begun = 0
release = threading.Event()


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the body back; first wait until released, if the path says so."""
    global num_begun
    num_begun += 1
    request = Request(scope, receive)
    while scope["path"] == "/held" and not release.is_set():
        await asyncio.sleep(0.01)
    await PlainTextResponse(await request.body())(scope, receive, send)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    found = configured(RequestId(answer, Forms({})), Settings())
    found.port = 0
    found.lifespan = "off"
    with listening(RequestId(answer, Forms({})), found) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[socket.socket]:
    global num_begun
    num_begun = 0
    release.clear()
    with connected(address) as client:
        yield client
    release.set()


def flood(client: socket.socket, data: bytes, most: int) -> int:
    """Send until nobody takes any more; return how many bytes were taken."""
    client.settimeout(0.5)
    num_sent = 0
    with suppress(TimeoutError):
        while num_sent < most:
            num_sent += client.send(data)
    client.settimeout(LONG_S)
    return num_sent


def sending(client: socket.socket, data: bytes) -> threading.Thread:
    """Send, in a thread that does not keep a test that fails."""
    sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
    sender.start()
    return sender


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def test_nothing_is_read_from_a_client_whose_requests_wait_behind_another(
    client: socket.socket,
) -> None:
    client.sendall(HELD)
    assert flood(client, GET * 1000, 5 * _KERNELS) < _KERNELS
    assert num_begun == 1


def test_nothing_is_read_from_a_client_that_takes_no_answers(client: socket.socket) -> None:
    assert flood(client, post(b"x" * 10_000) * 10, 5 * _KERNELS) < 2 * _KERNELS


def test_what_was_held_is_answered_in_order(client: socket.socket) -> None:
    texts = [b"%d" % i * (1 + i % 7) for i in range(5000)]
    sender = threading.Thread(
        target=client.sendall, args=(HELD + b"".join(map(post, texts)),), daemon=True
    )
    sender.start()
    time.sleep(0.2)
    assert num_begun == 1
    release.set()
    received = b""
    while received.count(b"HTTP/1.1 200 ") < 1 + len(texts) or not received.endswith(texts[-1]):
        received += client.recv(65536)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 ")]
    assert bodies[2:] == texts
    sender.join()


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65536, 262_144, 3 * MB])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_bodies_of_any_size_arrive_whole_before_a_head_that_follows_at_once(
    client: socket.socket, size: int, is_chunked: bool
) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    data = post(body)
    if is_chunked:
        data = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        data += b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
    sender = sending(client, data + GET[:20])
    assert answered(client) == body
    client.sendall(GET[20:])
    assert answered(client) == b""
    sender.join()


def test_others_have_their_turn_while_one_sends_small_chunks(
    address: str, client: socket.socket
) -> None:
    chunks = b"6\r\nabcdef\r\n" * 50_000
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    done = threading.Event()

    def send() -> None:
        with suppress(OSError):
            while not done.is_set():
                client.sendall(chunks)

    sender = threading.Thread(target=send)
    sender.start()
    waits = []
    with connected(address) as other:
        for _ in range(50):
            start = time.perf_counter()
            other.sendall(GET)
            answered(other)
            waits.append(time.perf_counter() - start)
    done.set()
    client.shutdown(socket.SHUT_RDWR)
    sender.join()
    assert sorted(waits)[len(waits) // 2] < 0.2


class Written(asyncio.Transport):
    """A transport that keeps what each call would send."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []
        self.is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.calls.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        self.is_over = True


@pytest.mark.parametrize(
    ("sent", "calls"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"body"], [b"HTTP/1.1 200 OK\r\n\r\nbody"]),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b""], [b"HTTP/1.1 200 OK\r\n\r\n"]),
        (
            [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 a", b"b"],
            [b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 a", b"b"],
        ),
        (
            [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"body"],
            [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nbody"],
        ),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], [b"HTTP/1.1 200 OK\r\n\r\n"]),  # and then the end
    ],
)
def test_a_head_is_sent_with_what_comes_next(sent: list[bytes], calls: list[bytes]) -> None:
    transport = Written()
    joined = Joined(transport)
    for data in sent:
        joined.write(data)
    joined.close()
    assert transport.calls == calls
    assert joined.is_closing()
