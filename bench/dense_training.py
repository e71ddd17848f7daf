"""What CI-KD brings to dense models: the same steps with it and without, on rendered scenes.

Both arms of a seed see the same images in the same order and draw the same subnets. Scores are of
scenes that no training had. A gain is of retention's kind: how much less an error, or how much more
a score is, in per cent, so that tasks can be averaged.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from bench import report
from bench.dense_data import TASKS, scenes
from models.backends.torch import TorchBackend
from models.families.dense import Dense, DenseConfig
from models.inputs.image import ImageInput
from models.space import Subnet
from models.train.dense import DenseRecipe, train_dense
from models.train.maps import score_of
from search.offline.vision_training import image_scores

_WIDTHS = ((0.25, 0.25), (0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0))  # of stages, of decoders
_TEST_SEED = 20_231_002
_MEAN, _STD = (0.35, 0.35, 0.36), (0.18, 0.17, 0.18)


def main() -> None:
    """Train both arms of each seed and print what differs."""
    options = report.parser(__doc__)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--size", type=int, default=48, help="height and width of the scenes")
    options.add_argument("--train", type=int, default=1500, help="scenes to learn from")
    options.add_argument("--test", type=int, default=200, help="scenes to report on")
    options.add_argument("--ci-kd", type=float, default=DenseRecipe().ci_kd)
    options.add_argument("--out", type=Path, help="keep the runs' states here, to go on later")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.steps, chosen.seeds, chosen.train, chosen.test = 10, 2, 64, 24
    size = chosen.size
    train, test = (
        scenes(seed, count, size, size)
        for seed, count in ((0, chosen.train), (_TEST_SEED, chosen.test))
    )
    config = DenseConfig(TASKS, ImageInput(size, size, _MEAN, _STD))
    recipe = DenseRecipe(steps=chosen.steps, ci_kd=chosen.ci_kd)
    backend = TorchBackend()
    arms = {"CI-KD": recipe.ci_kd, "none": 0.0}
    scores: dict[str, list[list[list[float]]]] = {arm: [] for arm in arms}  # seed, subnet, task
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(chosen.seeds):
            for arm, weight in arms.items():
                torch.manual_seed(seed)
                model = Dense("bench", config)
                own = replace(recipe, ci_kd=weight, seed=seed)
                folder = (chosen.out or Path(scratch)) / f"{arm}-{seed}"
                trained = train_dense(model, train, own, folder)
                backend.prepare(trained)
                found = image_scores(trained, [_subnet(trained, w) for w in _WIDTHS], test, backend)
                scores[arm].append(
                    [[float(score_of(task, one[task.name])) for task in TASKS] for one in found]
                )
    _show(scores, chosen.steps, chosen.test)
    figures = {"recipe": asdict(recipe), "options": {**vars(chosen), "json": None, "out": None}}
    report.finish({**figures, "widths": _WIDTHS, "scores": scores}, chosen.json)


def _subnet(model: Dense, widths: tuple[float, float]) -> Subnet:
    return Subnet((axis.name, widths[axis.task is not None]) for axis in model.space.axes)


def _show(scores: dict[str, list[list[list[float]]]], steps: int, images: int) -> None:
    with_it, without = (np.array(scores[arm]) for arm in ("CI-KD", "none"))
    lower = np.array([task.lower_is_better for task in TASKS])
    gain = 100 * np.where(lower, without / with_it - 1, with_it / without - 1)
    seeds = len(gain)
    rows: list[list[object]] = []
    for i, widths in enumerate(_WIDTHS):
        each = gain[:, i].mean(axis=1)  # of a seed, over the tasks
        told = [f"{without[:, i, t].mean():.3f} {gain[:, i, t].mean():+.1f} %" for t in range(4)]
        spread = each.std(ddof=1) / seeds**0.5 if seeds > 1 else float("nan")
        rows.append(
            [f"{widths[0]}, {widths[1]}", *told, each.mean(), spread, f"{(each > 0).sum()}/{seeds}"]
        )
    report.show(
        f"Score without CI-KD and gain by it; {steps} steps, {seeds} seeds, {images} test scenes",
        ["stages, decoders", *(task.name for task in TASKS), "mean, %", "error", "seeds ahead"],
        rows,
    )


if __name__ == "__main__":
    main()
