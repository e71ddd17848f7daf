"""What somebody sees who brings a model: every command from a folder to an answer, with its time.

Each model goes the way of the guide (docs/guides/your-own-models.md): `rheostat elasticize` on data
of its kind for --minutes, `rheostat serve`, a request within half of the budget, `rheostat export`
of the same budget. Models are made with transformers, of random weights, so that their scores say
nothing; what counts is that every step works and how long it takes. --also adds real ones, such as
a folder of sentence-transformers, or a file of torchvision's tensors.

With --quick, one model and a tenth of a minute.
"""

from __future__ import annotations

import argparse
import base64
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from PIL import Image

from bench import report
from bench.newcomers_models import CLASSES, MAKERS, WORDS
from bench.peers.process import free_port
from models.train import texts
from server.settings import data_folder

_START_S = 180.0
_PAIRS = 600
_IMAGES = 60  # of each class


@dataclass(frozen=True)
class Brought:
    """A model that somebody brings.

    Attributes:
        name: Of the model.
        path: Of its folder or file.
        data: Of its kind: rated pairs, or a folder of images.
    """

    name: str
    path: Path
    data: Path

    @property
    def sees(self) -> bool:
        """Whether it takes images."""
        return self.data.is_dir()


def main() -> None:
    """Walk, print and write."""
    options = report.parser(__doc__)
    add = options.add_argument
    add("--minutes", type=float, default=1.0, help="of each elasticize")
    add("--models", default=",".join(MAKERS), help=f"of {', '.join(MAKERS)}")
    add(
        "--also",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a real model; pairs of texts are its data, images of eight classes of a file",
    )
    chosen = options.parse_args()
    names = [name for name in chosen.models.split(",") if name]
    if unknown := set(names) - set(MAKERS):
        options.error(f"--models {', '.join(sorted(unknown))}: none of {', '.join(MAKERS)}")
    minutes = 0.1 if chosen.quick else chosen.minutes
    steps: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        for one in _brought(Path(scratch), names[: 1 if chosen.quick else None], chosen):
            steps += _walk(one, Path(scratch) / "out" / one.name, minutes)
    rows = [
        [step["model"], step["command"], f"{step['seconds']:.1f}", step["said"]] for step in steps
    ]
    report.show("From a folder to an answer", ("model", "command", "s", "what it said"), rows)
    report.finish({"newcomer": steps}, chosen.json)
    if failed := [step for step in steps if not step["passed"]]:
        sys.exit(f"bench.newcomer: {len(failed)} steps failed")


def _brought(scratch: Path, names: list[str], chosen: argparse.Namespace) -> Iterator[Brought]:
    """Make models and data."""
    pairs, images = scratch / "pairs.tsv", scratch / "images"
    rated = texts.stsb(data_folder(), "dev")[:_PAIRS]
    lines = [f"{one}\t{other}\t{score}" for one, other, score in rated]
    pairs.write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
    _write_images(images)
    for name in names:
        path, sees = MAKERS[name](scratch / "models" / name, [" ".join(rated[0][:2]), WORDS])
        yield Brought(name, path, images if sees else pairs)
    for one in chosen.also:
        name, _, path = one.partition("=")
        yield Brought(name, Path(path), images if Path(path).is_file() else pairs)


def _write_images(folder: Path) -> None:
    """Write some training images of CIFAR-100 as folders of their classes."""
    split = report.cifar100_splits().train
    counts = dict[str, int]()
    for pixels, task, label in zip(split.pixels, split.task, split.label, strict=True):
        name = f"class{int(task)}"
        if int(label) or name not in CLASSES or counts.get(name, 0) >= _IMAGES:
            continue
        number = counts[name] = counts.get(name, 0) + 1
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / name / f"{number}.png")


def _walk(one: Brought, out: Path, minutes: float) -> list[dict[str, Any]]:
    """Return the steps of a model, up to the first that fails."""
    steps: list[dict[str, Any]] = []

    def step(command: str, seconds: float, said: str, passed: bool) -> bool:
        told = {"model": one.name, "command": command, "seconds": seconds, "said": said}
        steps.append(told | {"passed": passed})
        print(f"{one.name}: {command}: {seconds:.1f} s: {said}", file=sys.stderr, flush=True)
        return passed

    elastic = f"elasticize {one.path} --data {one.data} --minutes {minutes:g}"
    elastic += f" --name {one.name} --out {out / one.name}"
    if one.path.is_file():  # of tensors, which know no names of classes
        labels = out.parent / "labels.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("\n".join(CLASSES) + "\n")
        elastic += f" --labels {labels}"
    if not step(elastic, *_command(elastic)):
        return steps
    served = f"serve --models {out}"
    with _serving(served) as (url, seconds, said):
        if step(served, seconds, said, bool(url)):
            step("POST a request, budget.fraction 0.5", *_timed(lambda: _ask(one, url)))
    exported = f"export {out / one.name} --budget 0.5 --out {out.parent / (one.name + '-half')}"
    step(exported, *_command(exported))
    return steps


def _command(line: str) -> tuple[float, str, bool]:
    """Return the seconds of a command, its last line, and whether it succeeded."""
    started = time.perf_counter()
    words = [sys.executable, "-m", "server", *shlex.split(line)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return time.perf_counter() - started, said[-1] if said else "", done.returncode == 0


@contextmanager
def _serving(line: str) -> Iterator[tuple[str, float, str]]:
    """Run a server; yield its address, empty if it did not start, and how long that took."""
    port, started = free_port(), time.perf_counter()
    words = [sys.executable, "-m", "server", *shlex.split(line), "--port", str(port)]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"
            is_ready = _is_ready(url, process)
            seconds = time.perf_counter() - started
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            yield (url if is_ready else ""), seconds, "ready" if is_ready else "".join(last)
        finally:
            process.terminate()
            process.wait()


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.perf_counter() + _START_S
    while time.perf_counter() < until and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


def _timed(ask: Callable[[], httpx.Response]) -> tuple[float, str, bool]:
    started = time.perf_counter()
    answer = ask()
    seconds = time.perf_counter() - started
    if answer.status_code != httpx.codes.OK:
        return seconds, answer.text[:200], False
    found = answer.json()
    receipt = found.get("receipt") or found["usage"]["receipt"]
    said = f"fraction {receipt['fraction']:.3f}, quality {receipt['quality']:.3f}"
    return seconds, said, receipt["fraction"] <= 0.5


def _ask(one: Brought, url: str) -> httpx.Response:
    body: dict[str, Any] = {"model": one.name, "budget": {"fraction": 0.5}}
    if one.sees:
        image = next(one.data.rglob("*.png")).read_bytes()
        body["image"] = base64.b64encode(image).decode()
    else:
        body["inputs"] = [{"text": WORDS}]
    return httpx.post(f"{url}/v1/infer", json=body, timeout=60)


if __name__ == "__main__":
    main()
