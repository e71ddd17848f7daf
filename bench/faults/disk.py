"""Full disks: for the profiles from the start, and for database and log in the middle."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.faults.arena import AbsentError, Arena, Row, Server

_PROFILES_BYTES = 8192  # less than a profile
_DATA_BYTES = 4 * 2**20
_CLIENT = "/v1/clients/shop"


def run(arena: Arena) -> Iterator[Row]:
    """Start on a full disk, and fill another while the server runs."""
    profiles, data = arena.folder(), arena.folder()
    namespace = _namespace()
    shell = f"mount -t tmpfs -o size={_PROFILES_BYTES} none {profiles}\n"
    shell += f"mount -t tmpfs -o size={_DATA_BYTES} none {data}\n"
    options = ["--profiles", str(profiles), "--database", f"sqlite:///{data}/clients.db"]
    options += ["--log-level", "info"]  # every request writes a line
    with (
        arena.server(*options, before=namespace, shell=shell, log=data / "log") as server,
        server.watched("disk") as row,
        server.client() as http,
    ):
        inside = _seen_by(server, data)
        log = (inside / "log").read_text()
        row.expect(f"the profile of {arena.model} is not kept: [Errno 28]" in log, "it warns")
        left = list(_seen_by(server, profiles).iterdir())
        row.expect(not left, f"nothing is left behind, but {left}")
        before = http.put(_CLIENT, json={"weight": 2}).status_code
        filler = _fill(inside)
        answer = http.put(_CLIENT, json={"weight": 3})
        reload = http.post(f"/v1/models/{arena.model}/reload").status_code
        time.sleep(server.calm_s)  # the log cannot be written either
        kept = http.get(_CLIENT)
        filler.unlink()
        after = http.put(_CLIENT, json={"weight": 4}).status_code
        row.expect(
            answer.status_code == 503 and "disk is full" in answer.text, "a change gets a clear 503"
        )
        row.expect(kept.json().get("weight") == 2, "what was stored is as it was")
        row.expect(reload == 200, f"a model reloads, not {reload}")
        row.expect(after == 200, "once there is room changes are taken")
        row.faulty = (
            f"profile not kept, {len(left)} files left; PUT {_CLIENT}: {before}, "
            f"{answer.status_code} while full, then {after}; reload while full: {reload}"
        )
        row.figures = {"refused": answer.text}
    yield row


def _namespace() -> tuple[str, ...]:
    """Return what runs a command with mounts of its own."""
    command = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "-r", "--mount")
    probe = "mount -t tmpfs -o size=8192 none /mnt"
    try:
        done = subprocess.run([*command, "sh", "-c", probe], capture_output=True, check=False)
    except FileNotFoundError:
        raise AbsentError("there is no unshare, which Linux has") from None
    if done.returncode:
        raise AbsentError(f"nothing can be mounted: {done.stderr.decode().strip()}")
    return command


def _seen_by(server: Server, folder: Path) -> Path:
    return server.root / folder.relative_to("/")


def _fill(folder: Path) -> Path:
    """Fill a file system to the last byte; return the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler
