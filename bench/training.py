"""What sharing weights costs, and what CI-KD brings: supernets beside networks trained alone.

Trains, with one recipe and one number of steps: the supernet, the supernet without CI-KD, and a
static network at each of three of the supernet's subnets. Reports accuracy on CIFAR-100's test
split. Needs RHEOSTAT_DATA; the full run takes hours on a small machine, so each run's state is
kept in --out and an interrupted benchmark goes on when started again.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bench import report
from models.backends.torch import TorchBackend
from models.core import plan_cost
from models.families.slimmable import Slimmable, SlimmableConfig
from models.space import Subnet
from models.train import cifar100
from models.train.cifar100 import Images
from models.train.slimmable import Recipe, recipe_json, train
from search.budget import Budget
from search.offline.training import by_task, evaluate
from server import catalog

FRACTIONS = (0.25, 0.5, 1.0)


def main() -> None:
    """Train what is not trained yet and print both tables."""
    options = _options()
    splits = report.cifar100_splits()
    images, test = splits.train, splits.test
    if options.quick:
        images, test = thin(images, 10), thin(test, 4)
    recipe = Recipe(epochs=1 if options.quick else options.epochs)
    subnets = _subnets()
    variants = {"supernet": recipe, "without CI-KD": replace(recipe, ci_kd=0.0)} | {
        f"static at {fraction}": replace(recipe, only=subnet)
        for fraction, subnet in subnets.items()
    }
    backend = TorchBackend(options.device)
    trained: dict[str, Slimmable] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, variant in variants.items():
            torch.manual_seed(variant.seed)
            model = Slimmable("bench", SlimmableConfig(splits.tasks, cifar100.INPUT))
            backend.prepare(model)
            folder = Path(options.out or scratch) / name.replace(" ", "-")
            trained[name] = train(model, images, variant, folder)
            backend.prepare(trained[name])

    def accuracy(name: str, subnet: Subnet) -> float:
        per_task = evaluate(trained[name], subnet, by_task(trained[name], test), backend)
        return sum(per_task.values()) / len(per_task)

    largest = plan_cost(
        trained["supernet"].plan(subnets[1.0], {"image": cifar100.INPUT.shape})
    ).macs
    rows = []
    for fraction, subnet in subnets.items():
        macs = plan_cost(trained["supernet"].plan(subnet, {"image": cifar100.INPUT.shape})).macs
        shared, alone = accuracy("supernet", subnet), accuracy(f"static at {fraction}", subnet)
        without = accuracy("without CI-KD", subnet)
        rows.append(
            [macs / largest, macs / 1e6, shared, alone, shared - alone, without, shared - without]
        )
    columns = ["fraction", "MMACs", "supernet", "static", "sharing", "no CI-KD", "CI-KD"]
    title = f"Test accuracy, {recipe.epochs} epochs of {len(images)} images; differences signed"
    report.show(title, columns, rows)
    report.finish(
        {
            "recipe": recipe_json(recipe),
            "rows": [dict(zip(columns, row, strict=True)) for row in rows],
            "subnets": {str(fraction): dict(subnet) for fraction, subnet in subnets.items()},
        },
        options.json,
    )


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--out", metavar="DIR", help="keep the runs' states here, to go on later")
    return options.parse_args()


def _subnets() -> dict[float, Subnet]:
    """Return what the search takes from the shipped model for equal weights."""
    served = catalog.load(report.ZOO).choose(None)
    found = {
        f: served.finder.find(budget=Budget(fraction=f), tolerance=0).subnet for f in FRACTIONS[:-1]
    }
    return {**found, FRACTIONS[-1]: served.elastic.space.largest}


def thin(images: Images, per_class: int) -> Images:
    """Return the first images of every class."""
    keep = []
    for task in range(20):
        for label in range(5):
            own = torch.nonzero((images.task == task) & (images.label == label)).flatten()
            keep.append(own[:per_class])
    index = torch.cat(keep)
    return Images(images.pixels[index], images.task[index], images.label[index])


if __name__ == "__main__":
    main()
