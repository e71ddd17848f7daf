from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.listening import DEADLINE_S, free_port, running, server
from tests.server.samples import image, text_of

WAIT_S = 30
LONG_S = 600  # far beyond what a test may take


def small(
    port: int, drain_s: float = 0, grace_s: float = LONG_S
) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.server.draining", str(port), str(drain_s), str(grace_s)]
    return running(command)


class Talk:
    """A connection, byte by byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def begin(self, length: int) -> None:
        """Send a request's head, and wait until the server asks for its body."""
        self.send(
            b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            b"x-request-id: run-7\r\ncontent-length: %d\r\n\r\n" % length
        )
        assert self._socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"

    def rest(self) -> bytes:
        """Return everything until the server closes the connection."""
        return b"".join(iter(lambda: self._socket.recv(65536), b""))


@contextmanager
def talk(port: int) -> Iterator[Talk]:
    connection = Talk(port)
    try:
        yield connection
    finally:
        connection.close()


def until_nobody_listens(port: int) -> None:
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_S).close()
        except ConnectionError:
            return
    pytest.fail("still listening")


def until_not_ready(client: httpx.Client) -> None:
    give_up = time.monotonic() + WAIT_S
    while client.get("/readyz").status_code != 503:
        assert time.monotonic() < give_up, "still ready"


def test_an_accepted_request_is_answered_after_listening_has_stopped() -> None:
    port = free_port()
    with small(port) as process, talk(port) as one, talk(port) as other:
        one.begin(4)
        other.begin(4)
        one.send(b"a")
        process.send_signal(signal.SIGTERM)
        until_nobody_listens(port)
        one.send(b"bcd")
        other.send(b"efgh")
        for connection, body in ((one, b"abcd"), (other, b"efgh")):
            head, _, found = connection.rest().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert found == body
        output, _ = process.communicate(timeout=WAIT_S)
        assert "Traceback" not in output
        assert process.returncode == -signal.SIGTERM  # as uvicorn leaves it


def test_while_it_drains_it_is_not_ready_and_answers_on_old_and_new_connections() -> None:
    port, drain_s = free_port(), 2.0
    address = f"http://127.0.0.1:{port}"
    with (
        small(port, drain_s) as process,
        httpx.Client(base_url=address, timeout=WAIT_S) as old,
        httpx.Client(base_url=address, timeout=WAIT_S) as new,
    ):
        assert old.post("/", content=b"before").text == "before"
        signalled = time.monotonic()
        process.send_signal(signal.SIGTERM)
        until_not_ready(new)
        assert time.monotonic() < signalled + drain_s
        assert old.post("/", content=b"old").text == "old"
        answers = [new.post("/", content=b"new") for _ in range(20)]
        assert {answer.text for answer in answers} == {"new"}
        until_closed = time.monotonic() + drain_s
        while new.post("/").headers.get("connection") != "close":
            assert time.monotonic() < until_closed
        process.communicate(timeout=WAIT_S)
        assert time.monotonic() >= signalled + drain_s
        assert process.returncode == -signal.SIGTERM


def test_a_request_that_never_ends_is_told_so_and_does_not_keep_the_process() -> None:
    port = free_port()
    with small(port, grace_s=0.2) as process, talk(port) as stalled, talk(port) as headless:
        headless.send(b"POST / HTTP/1.1\r\nhost:")
        stalled.begin(4)
        stalled.send(b"a")
        process.send_signal(signal.SIGTERM)
        head, _, body = stalled.rest().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert json.loads(body)["error"] == {
            "type": "not_ready",
            "message": "the server stopped before this request was done",
            "field": None,
            "request_id": "run-7",
        }
        assert headless.rest() == b""
        output, _ = process.communicate(timeout=WAIT_S)
        assert "1 requests were not done in grace_s=0.2" in output
        assert "timeout graceful shutdown exceeded" not in output  # uvicorn's deadline, a later one
        assert "[run-7]: POST / 503 " in output
        assert "Traceback" not in output
        assert process.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_a_client_that_does_not_read_its_answer_does_not_keep_the_process() -> None:
    port = free_port()
    body = b"x" * 20_000_000  # more than the sockets' buffers hold
    with small(port, grace_s=0.2) as process, talk(port) as deaf:
        deaf.begin(len(body))
        deaf.send(body)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == -signal.SIGTERM


def test_an_interrupt_ends_it_as_well_and_a_second_one_at_once() -> None:
    port = free_port()
    with (
        small(port, drain_s=LONG_S) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client,
    ):
        process.send_signal(signal.SIGINT)
        until_not_ready(client)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=WAIT_S)
        assert "draining for 600 s" in output
        assert process.returncode == 0


def test_a_port_that_somebody_takes_meanwhile_ends_it_with_a_line_and_uvicorns_status() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        command = [sys.executable, "-m", "tests.server.draining", str(other.getsockname()[1])]
        process = subprocess.Popen(
            [*command, "0", "1", "wait"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "bound\n"
        other.listen()
        _, stderr = process.communicate("go on\n", timeout=DEADLINE_S)
    assert process.returncode == 3
    assert "cannot listen on 127.0.0.1: " in stderr
    assert "ddress already in use" in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_under_load_every_request_sent_while_ready_is_answered_and_every_line_is_json(
    folder: Path,
) -> None:
    port = free_port()
    statuses: list[int] = []
    has_begun = threading.Event()
    body = {"image": text_of(image())}

    def ask() -> None:
        """Ask as a load balancer lets clients ask: while the server is ready."""
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
            while client.get("/readyz").status_code == 200:
                statuses.append(client.post("/v1/infer", json=body).status_code)
                if len(statuses) >= 20:
                    has_begun.set()
            statuses.append(0)  # all went well to the end

    with server(folder, port, "--drain-s", "2", "--log-format", "json") as process:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert has_begun.wait(DEADLINE_S)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=DEADLINE_S)
        for thread in threads:
            thread.join()
        assert statuses.count(0) == len(threads)
        answered = len(statuses) - len(threads)
        assert statuses.count(200) == answered
        records = [json.loads(line) for line in output.splitlines()]
        access = [one for one in records if one["logger"] == "rheostat.access"]
        assert len(access) == answered
        assert len({one["request_id"] for one in access}) == answered
        assert {one["model"] for one in access} == {"tiny"}
        assert process.returncode == -signal.SIGTERM
