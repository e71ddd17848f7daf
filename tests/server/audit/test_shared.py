"""A real server of several processes: what one of them audits, all know."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from tests.server.audit.test_audit import TEXTS, write_model
from tests.server.listening import free_port, server

WAIT_S = 60


def test_what_one_process_saw_all_tell(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "tiny-text")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = ("--http-workers", "2", "--audit-share", "1")
    with server(tmp_path / "models", port, *options):
        end = time.monotonic() + WAIT_S
        while httpx.get(f"{address}/readyz").status_code != 200:
            assert time.monotonic() < end, "never ready"
            time.sleep(0.1)
        for text in TEXTS[:12]:
            body = {"input": text, "budget": {"fraction": 0.5}}
            # A connection each: either process may take it.
            assert httpx.post(f"{address}/v1/embeddings", json=body).status_code == 200
            time.sleep(0.05)

        def samples() -> list[int]:
            """Return what is told on connections of their own."""
            found = []
            for _ in range(8):
                front = httpx.get(f"{address}/v1/models/tiny-text").json()["front"]
                found.append(sum(one["audit"]["samples"] for one in front if one["audit"]))
            return found

        while len(set(told := samples())) > 1 or told[0] < 6:
            assert time.monotonic() < end, f"not told alike: {told}"
            time.sleep(0.2)
        text = httpx.get(f"{address}/metrics").text
        (line,) = [
            one for one in text.splitlines() if one.startswith("rheostat_audit_compared_total ")
        ]
        assert float(line.split()[1]) >= told[0]
