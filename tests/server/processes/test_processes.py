"""A real server of several processes: what is left when one of them is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.server.listening import free_port, server

WAIT_S = 60


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def forked(pid: int) -> list[int]:
    """Return the processes that do the server's work: children of the one they are forked from."""
    return sorted(child for own in children(pid) for child in children(own))


def until_ready(url: str) -> None:
    end = time.monotonic() + WAIT_S
    while True:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, "never ready"
        time.sleep(0.05)


def ends(pids: Sequence[int]) -> bool:
    end = time.monotonic() + WAIT_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    if not Path("/proc/self/task").exists():
        pytest.skip("looks at processes as Linux shows them")
    port = free_port()
    with server(folder, port, "--http-workers", "2") as process:
        yield f"http://127.0.0.1:{port}", process.pid


def test_killed_processes_come_back_and_all_end_with_the_first(url: tuple[str, int]) -> None:
    address, pid = url
    until_ready(address)
    before = forked(pid)
    assert len(before) == 2  # the engine's, and one that answers HTTP beside the first
    for killed in before:
        os.kill(killed, signal.SIGKILL)
        assert ends([killed])
        end = time.monotonic() + WAIT_S
        while len(forked(pid)) < 2:
            assert time.monotonic() < end, "no successor"
            time.sleep(0.05)
        until_ready(address)
    after = forked(pid)
    assert not set(after) & set(before)
    os.kill(pid, signal.SIGKILL)
    assert ends(after)


def test_a_server_that_is_told_to_end_takes_all_its_processes_along(url: tuple[str, int]) -> None:
    address, pid = url
    until_ready(address)
    all_of_them = [*children(pid), *forked(pid)]
    os.kill(pid, signal.SIGTERM)
    assert ends(all_of_them)
