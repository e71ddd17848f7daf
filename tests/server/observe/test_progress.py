from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.observe.progress import ProgressDisplay
from tests.server.listening import DEADLINE_S, ROOT, free_port

MEASURING = "measuring the latency profile of tiny, once"


def read_all(descriptor: int) -> str:
    """Return what a terminal shows until the last process on it has ended."""
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            part = b""
        if not part:
            return b"".join(parts).decode()
        parts.append(part)


def on_terminal(command: list[str], until: str | None = None, **environment: str) -> str:
    """Run a process on a terminal of its own; return what it shows, to its end or up to a text."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    try:
        shown = ""
        while until is not None and until not in shown:
            shown += os.read(ours, 65536).decode()
        if until is not None:
            process.terminate()
        shown += read_all(ours)
        process.wait(DEADLINE_S)
        return shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_log_gets_a_line_every_three_seconds_at_most(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    with caplog.at_level(logging.INFO), ProgressDisplay(clock=lambda: now).of("counting") as tell:
        for second in range(10):
            now = float(second)
            tell(second / 10)
            tell(second / 10)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["counting", "counting: 30 %", "counting: 60 %", "counting: 90 %"]


DRAWING = """
import logging
import time
from server.observe import logs
from server.observe.progress import ProgressDisplay

logs.configure("console", "info")
with ProgressDisplay.on_terminal().of("counting") as tell:
    for part in range(1, 5):
        time.sleep(0.15)
        tell(part / 4)
        if part == 2:
            logging.getLogger("other").info("half way")
logging.getLogger("other").info("done")
"""


def test_a_terminal_gets_a_bar_that_breaks_no_line_of_the_log_and_goes_at_the_end() -> None:
    shown = on_terminal([sys.executable, "-c", DRAWING])
    assert re.search(r"\rcounting:  50 % \|[#█]{15} {15}\| 00:00", shown)
    lines = shown.split("\r\n")
    assert re.fullmatch(r".* INFO server\.observe\.progress \[-\]: counting", lines[0])
    (half_way,) = (line for line in lines if line.endswith("half way"))
    # What stands before it on its line has been wiped out.
    assert re.fullmatch(r"[\d:, -]+ INFO other \[-\]: half way", half_way.rpartition("\r")[2])
    done = lines[-2]
    assert re.fullmatch(r"[\d:, -]+ INFO other \[-\]: done", done.rpartition("\r")[2])
    assert done.rpartition("\r")[0].rpartition("\r")[2].strip() == ""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["console", "json"])
def test_a_start_on_a_terminal_draws_bars_only_between_lines_for_people(
    folder: Path, tmp_path: Path, form: str
) -> None:
    command = [sys.executable, "-m", "server", "serve", "--models", str(folder)]
    options = ["--port", str(free_port()), "--log-format", form, "--profiles", str(tmp_path)]
    shown = on_terminal([*command, *options], until="Rheostat serves tiny on http")
    assert MEASURING in shown
    assert "warming up model 1 of 1: tiny" in shown
    assert (f"\r{MEASURING}:" in shown) == (form == "console")
