"""What a share of the compute buys of the shipped models, as a client sees it.

A server of the shipped models is asked for the test splits, which chose nothing, at one budget
after the other: accuracy among the five classes of an image's own task, and rank correlation of
cosines with people's ratings. FLOPs are those of receipts. Every answer counts, and a budget that
is refused ends the benchmark.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bench import report
from bench.peers.process import HOST, Launch, running
from models.train import texts
from models.train.texts import ScoredPair
from rheostat import Budget, Client
from search.quality.embeddings import rank_correlation
from server.settings import data_folder

SHARES = (0.1, 0.25, 0.5, 1.0)
_QUICK_IMAGES, _QUICK_PAIRS = 10, 3  # with --quick, every so many
_PIECE = 50  # of images in a request
_COLUMNS = ("budget", "compute used", "FLOPs", "score", "standard error", "n")
_ROOT = Path(__file__).parent.parent

_Row = tuple[str, str, str, float, float, int]


def main() -> None:
    """Ask, and print one table for each model."""
    options = report.parser(__doc__).parse_args()
    splits = report.cifar100_splits()
    pairs = texts.stsb(data_folder(), "test")
    chosen = range(len(splits.test))
    if options.quick:  # both are in some order, so every so many of them
        chosen, pairs = chosen[::_QUICK_IMAGES], pairs[::_QUICK_PAIRS]
    images = [_png(splits.test.pixels[i]) for i in chosen]
    tasks = list(splits.tasks.items())
    truth = []
    for i in chosen:
        task, labels = tasks[int(splits.test.task[i])]
        truth.append((task, labels[int(splits.test.label[i])]))
    serve = "serve --port {port} --policy fixed --no-ui --database sqlite:///clients.db"
    command = (sys.executable, "-m", "server", *serve.split())
    launch = Launch(command, {"PYTHONPATH": str(_ROOT)})
    body = json.dumps({"input": "a text"}).encode()
    with running(launch, 2, body) as server, Client(f"http://{HOST}:{server.port}") as client:
        of_images = [_images(client, share, images, truth) for share in SHARES]
        of_texts = [_texts(client, share, pairs) for share in SHARES]
    report.show("cifar100-mtl: accuracy on the test split of CIFAR-100", _COLUMNS, of_images)
    report.show("minilm-2d: Spearman on the test split of STS-Benchmark", _COLUMNS, of_texts)
    figures = {"images": of_images, "texts": of_texts}
    report.finish({"budgets": figures}, options.json)


def _images(
    client: Client, share: float, images: Sequence[bytes], truth: Sequence[tuple[str, str]]
) -> _Row:
    """Return what a budget is worth on images, of each of which one task counts."""
    right: list[bool] = []
    receipt = None
    for start in range(0, len(images), _PIECE):
        piece = images[start : start + _PIECE]
        answer = client.infer(piece, model="cifar100-mtl", budget=Budget(fraction=share))
        receipt = answer.receipt
        for outputs, (task, label) in zip(answer.outputs, truth[start:], strict=False):
            right.append(outputs[task].label == label)
    assert receipt is not None
    value, n = float(np.mean(right)), len(right)
    error = math.sqrt(value * (1 - value) / n)
    return _row(share, receipt.fraction, receipt.flops, value, error, n)


def _texts(client: Client, share: float, pairs: Sequence[ScoredPair]) -> _Row:
    """Return what a budget is worth on pairs of texts."""
    budget = Budget(fraction=share)
    sides = [pair.first for pair in pairs], [pair.second for pair in pairs]
    one, other = (client.embed(side, model="minilm-2d", budget=budget) for side in sides)
    cosines = (np.array(one.vectors) * np.array(other.vectors)).sum(1)
    found = rank_correlation(cosines, np.array([pair.score for pair in pairs]))
    receipt = one.receipt
    return _row(share, receipt.fraction, receipt.flops, found.value, found.stderr, found.n)


def _row(share: float, used: float, flops: int, value: float, error: float, n: int) -> _Row:
    return f"{share:.0%}", f"{used:.1%}", f"{flops / 1e6:.1f} M", value, error, n


def _png(pixels: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.numpy().transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
