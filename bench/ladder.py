"""A ladder of separately trained models beside one slimmable model: score at equal MACs.

With each seed, one recipe trains the slimmable model and three networks that have exactly its
channels at a quarter, half and all of its widths. The three share the slimmable model's number of
optimiser steps: a third each. Scores are of CIFAR-100's test split, which chose nothing. Needs
RHEOSTAT_DATA; each run's state is kept in --out, and an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench import report
from bench.training import thin
from models.backends.torch import TorchBackend
from models.families.slimmable import Slimmable, SlimmableConfig
from models.space import Subnet
from models.train import cifar100
from models.train.cifar100 import Cifar100, Images
from models.train.run import LOG_FILE
from models.train.slimmable import Recipe, recipe_json, train
from search.offline.training import by_task, evaluate

WIDTHS = (0.25, 0.5, 1.0)
_CHANNELS, _DECODER = (32, 64, 96, 128), 32


def main() -> None:
    """Train what is not trained yet, and print the table."""
    options = _options()
    splits = report.cifar100_splits()
    per_class = 10 if options.quick else options.images_per_class
    images, test = thin(splits.train, per_class), splits.test
    epochs, seeds = (len(WIDTHS), 1) if options.quick else (options.epochs, options.seeds)
    if options.quick:
        test = thin(test, 10)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(seeds):
            recipe = Recipe(epochs=epochs, seed=seed)
            runs.append(_run(splits, images, test, recipe, Path(options.out or scratch)))
    _show(runs, len(images), epochs)
    report.finish(
        {"recipe": recipe_json(Recipe(epochs=epochs)), "images": len(images), "runs": runs},
        options.json,
    )


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    options.add_argument("--epochs", type=int, default=9, help="of the slimmable; a multiple of 3")
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--images-per-class", type=int, default=200, help="at most 400")
    options.add_argument("--out", metavar="DIR", help="keep the runs' states here, to go on later")
    found = options.parse_args()
    if found.epochs < 1 or found.epochs % len(WIDTHS):
        options.error(f"--epochs={found.epochs} must be a multiple of {len(WIDTHS)}")
    return found


def member(splits: Cifar100, width: float, widths: tuple[float, ...] = (1.0,)) -> Slimmable:
    """Return an untrained network with the slimmable model's channels at one of its widths."""
    config = SlimmableConfig(
        splits.tasks,
        cifar100.INPUT,
        channels=tuple(round(width * full) for full in _CHANNELS),
        blocks=(1,) * len(_CHANNELS),
        decoder_channels=round(width * _DECODER),
        widths=widths,
    )
    return Slimmable(f"width-{width}", config)


def _run(
    splits: Cifar100, images: Images, test: Images, recipe: Recipe, out: Path
) -> dict[str, Any]:
    """Train the slimmable model and the three others with one seed; return what each is worth."""
    torch.manual_seed(recipe.seed)
    slimmable = member(splits, 1.0, (*WIDTHS[:2], 0.75, 1.0))
    folder = out / f"slimmable-{recipe.seed}"
    whole = train(slimmable, images, recipe, folder)
    found: dict[str, Any] = {
        "seed": recipe.seed,
        "slimmable": {"seconds": _seconds(folder), "bytes": _bytes([whole]), "points": []},
    }
    ladder, seconds, points = [], 0.0, []
    for width in WIDTHS:
        torch.manual_seed(recipe.seed)
        alone = member(splits, width)
        own = replace(recipe, epochs=recipe.epochs // len(WIDTHS), only=alone.space.largest)
        folder = out / f"width-{width}-{recipe.seed}"
        trained = train(alone, images, own, folder)
        ladder.append(trained)
        seconds += _seconds(folder)
        points.append(_point(trained, trained.space.largest, test))
        uniform = Subnet((axis.name, width) for axis in whole.space.axes)
        found["slimmable"]["points"].append(_point(whole, uniform, test))
    found["ladder"] = {"seconds": seconds, "bytes": _bytes(ladder), "points": points}
    return found


def _point(model: Slimmable, subnet: Subnet, test: Images) -> dict[str, float]:
    backend = TorchBackend()
    backend.prepare(model)
    accuracy = evaluate(model, subnet, by_task(model, test), backend)
    macs = model.plan(subnet, model.inputs.plan_shapes()).cost.macs
    return {"macs": macs, "accuracy": sum(accuracy.values()) / len(accuracy)}


def _seconds(folder: Path) -> float:
    """Return how long a run's epochs took together."""
    lines = (folder / LOG_FILE).read_text().splitlines()
    return float(sum(json.loads(line)["seconds"] for line in lines))


def _bytes(models: Sequence[Slimmable]) -> int:
    """Return what the weights take on disk, two bytes each."""
    return sum(2 * p.numel() for model in models for p in model.parameters())


def _show(runs: Sequence[dict[str, Any]], num_images: int, epochs: int) -> None:
    rows = []
    for i, width in enumerate(WIDTHS):
        scores = {
            way: [run[way]["points"][i]["accuracy"] for run in runs]
            for way in ("slimmable", "ladder")
        }
        for way, found in scores.items():
            run = runs[0][way]
            rows.append(
                [
                    way,
                    width,
                    runs[0][way]["points"][i]["macs"] / 1e6,
                    statistics.mean(found),
                    min(found),
                    max(found),
                    run["bytes"] / 1e6,
                    statistics.mean(one[way]["seconds"] for one in runs),
                ]
            )
    columns = ["model", "width", "MMACs", "accuracy", "least", "most", "MB, all", "training s, all"]
    title = (
        f"Test accuracy, {len(runs)} seeds, {num_images} training images; {epochs} epochs of the "
        f"slimmable model, {epochs // len(WIDTHS)} of each member of the ladder"
    )
    report.show(title, columns, rows)


if __name__ == "__main__":
    main()
