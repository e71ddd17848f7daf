"""Checkpoints that are damaged where they lie, and then reloaded, under load."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bench.faults.arena import Arena, Row
from models.checkpoint import MANIFEST, WEIGHTS


def run(arena: Arena) -> Iterator[Row]:
    """Damage the served checkpoint in every way, reload it each time, and then put it right."""
    whole = arena.folder()
    folder = arena.folder() / arena.model
    shutil.copytree(arena.checkpoint, whole, dirs_exist_ok=True)
    shutil.copytree(whole, folder)
    own = replace(arena, checkpoint=folder.parent)
    with own.server() as server, server.watched("checkpoint") as row, server.client() as http:
        path = f"/v1/models/{arena.model}/reload"
        for name, damage in DAMAGES.items():
            damage(folder)
            answer = http.post(path)
            error = answer.json().get("error", {})
            row.figures[name] = error.get("message", answer.text)
            is_clear = error.get("type") == "model_not_loadable" and str(folder) in error["message"]
            row.expect(answer.status_code == 422 and is_clear, f"{name}: refused, saying why")
            row.faulty += f"{name}: {answer.status_code}; "
            time.sleep(server.calm_s / 4)  # the damage lies there while requests are answered
            shutil.copytree(whole, folder, dirs_exist_ok=True)
        answer = http.post(path)
        row.expect(answer.status_code == 200, f"the whole checkpoint loads, not {answer.text}")
        row.faulty += f"put right: {answer.status_code}"
    yield row


def _flip(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _truncate(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def _remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _misname(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][WEIGHTS]["sha256"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "flipped bit": _flip,
    "truncated": _truncate,
    "missing": _remove,
    "wrong manifest": _misname,
}
