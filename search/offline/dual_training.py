"""What `rheostat train dual` does around its recipe: an elastic encoder in, classes out.

Few texts of each class have labels. The teacher is the whole encoder, which has read the names of
the classes: it compares them with texts, of which it needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models import checkpoint, families
from models.backends.torch import TorchBackend
from models.families.dual import AXIS, LABELS, TEACHER, DualConfig, DualHeads
from models.families.exits import Exits
from models.space import Subnet
from models.train import texts
from models.train.dual import DualRecipe, Known, train_dual
from search.offline.training import RUN, training_log
from search.offline.wrapped_training import around, scores_told, write_trained
from search.quality.embeddings import Measured, answers_by_plan, mean_of, share_of, table_of
from search.quality.items import Batches
from search.quality.table import BoolArray

DATA = ("banking77", "clinc150")
TASK = "intent"
GAIN = ", gain"
ALPHAS = (LABELS, TEACHER, 0.1, 0.2, 0.5, 0.7, 0.35)
_WIDTHS = (0.5, 1.0)
_CHOOSING = 10  # texts of each class that choose

Labelled = list[tuple[str, int]]
Right = Mapping[Subnet, BoolArray]
"""By subnet, which texts got their own class."""


class Intents(NamedTuple):
    """Texts with the numbers of their classes, no text in two parts.

    Attributes:
        labels: Names of the classes.
        shots: To learn from.
        seen: Likewise, but by the teacher's word alone.
        chosen: Development data, which the table is measured on.
        tested: Test data, which is only reported.
    """

    labels: tuple[str, ...]
    shots: Labelled
    seen: Labelled
    chosen: Labelled
    tested: Labelled

    @property
    def names(self) -> list[str]:
        """The classes as the teacher reads them."""
        return [label.replace("_", " ").lower() for label in self.labels]


def intents(root: Path, data: str, recipe: DualRecipe) -> Intents:
    """Draw a seed's parts of a data set.

    Args:
        root: Folder of the data sets.
        data: One of `DATA`.
        recipe: Says how many texts have labels.

    Raises:
        FileNotFoundError: If the data set is not there.
        ValueError: If it is none of these.
    """
    if data not in DATA:
        raise ValueError(f"data={data} must be one of {list(DATA)}")
    every, rng = texts.intents(root, data, "train"), Random(recipe.seed)
    labels = tuple(sorted({label for _, label in every}))
    number = {label: i for i, label in enumerate(labels)}
    by_label: list[list[str]] = [[] for _ in labels]
    for text, label in every:
        by_label[number[label]].append(text)
    shots, chosen, seen = Labelled(), Labelled(), Labelled()
    for i, own in enumerate(by_label):
        rng.shuffle(own)
        ends = (recipe.shots, recipe.shots + _CHOOSING)
        shots += [(text, i) for text in own[: ends[0]]]
        chosen += [(text, i) for text in own[ends[0] : ends[1]]]
        seen += [(text, i) for text in own[ends[1] :]]
    rng.shuffle(seen)
    tested = [(text, number[label]) for text, label in texts.intents(root, data, "test")]
    return Intents(labels, shots, seen[: recipe.texts], chosen, tested)


def train_dual_heads(
    source: Path,
    root: Path,
    data: str,
    out: Path,
    name: str,
    recipe: DualRecipe,
    report: Callable[[str], None],
) -> dict[str, dict[str, Measured]]:
    """Put two heads on every exit of an encoder and write a checkpoint with its table.

    Args:
        source: Checkpoint of the family `exits`.
        root: Folder of the data sets.
        data: One of `DATA`.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        On test data, means over exits and widths: accuracy of each way to choose alpha, and of
        controls; what alphas by exit and width gain over each of the others.

    Raises:
        FileNotFoundError: If a data set is not there.
        ValueError: If the checkpoint is of another family, or ``out`` holds a run with another
            recipe.
    """
    own = intents(root, data, recipe)
    model, control = (untrained(source, name, own.labels) for _ in range(2))
    report("embedding texts")
    parts = (own.shots, own.seen, own.chosen, own.tested)
    every = [text for part in parts for text, _ in part]
    vectors = embedded(model.base, [*every, *own.names])
    known = known_of(model, vectors, own, recipe)
    report("training")
    train_dual(model, known, recipe, out / RUN / "two heads")
    train_dual(control, known, recipe, out / RUN / "one head", apart=False)
    ends = (len(own.shots) + len(own.seen), len(every) - len(own.tested), len(every))
    chosen = right_of(model, vectors, own.chosen, slice(*ends[:2]))
    tested = right_of(model, vectors, own.tested, slice(*ends[1:]))
    one = right_of(control, vectors, own.tested, slice(*ends[1:]))
    subnets = list(model.space)
    table = table_of(model, subnets, {TASK: [share_of(chosen[subnet]) for subnet in subnets]})
    score, gain = compared(model, chosen, tested, one)
    found = {data: score, f"{data}{GAIN}": gain}
    told = {
        "test": scores_told(found),
        "subnets": [[repr(subnet), share_of(tested[subnet])._asdict()] for subnet in subnets],
        "steps": training_log(out / RUN / "two heads", "."),
    }
    write_trained(model, "dual", source, out, table, recipe, told)
    return found


def untrained(source: Path, name: str, labels: tuple[str, ...]) -> DualHeads:
    """Return an encoder with heads that know nothing, at half and whole heads and units.

    Raises:
        ValueError: If the checkpoint is of another family than `exits`.
    """
    whole = checkpoint.load(source).model
    if not isinstance(whole, Exits):
        raise ValueError(f"{source} must be a checkpoint of the family 'exits'")
    config = replace(
        whole.config, dims=whole.config.dims[-1:], heads=_WIDTHS, ffn=_WIDTHS, bits=(32,)
    )
    base = Exits(name, config)
    base.load_state_dict(whole.state_dict())
    made = DualHeads(
        name, DualConfig("exits", families.as_json(config), TASK, labels, "depth", ALPHAS)
    )
    around(made, base, source)
    return made


def embedded(base: Exits, items: Sequence[str]) -> dict[Subnet, Tensor]:
    """Return the vectors of some texts by every subnet, shape [texts, dim]."""
    backend, batches = TorchBackend(), Batches(base, items)
    backend.prepare(base)
    by_width: dict[tuple[object, ...], list[Subnet]] = {}
    for subnet in base.space:
        by_width.setdefault((subnet["heads"], subnet["ffn"]), []).append(subnet)
    found = {}
    for own in by_width.values():  # of one width, the deepest has the steps of all others
        plans = [base.plan(subnet, batches.shapes, list(base.tasks)[:1]) for subnet in own]
        answers = answers_by_plan(plans, backend, batches)
        for subnet, vectors in zip(own, answers, strict=True):
            found[subnet] = torch.from_numpy(vectors).float()
    return found


def known_of(
    model: DualHeads, vectors: Mapping[Subnet, Tensor], own: Intents, recipe: DualRecipe
) -> Known:
    """Return what heads learn from; the last vectors are those of the classes' names."""
    count = len(own.shots) + len(own.seen)
    by_exit = [
        torch.stack([rows[:count] for subnet, rows in vectors.items() if subnet["depth"] == depth])
        for depth in model.base.config.depths
    ]
    whole = vectors[model.base.space.largest]
    cosines = whole[:count] @ whole[-len(own.labels) :].T
    teacher = F.softmax(cosines / recipe.temperature, dim=1)
    return Known(by_exit, torch.tensor([label for _, label in own.shots]), teacher)


def right_of(
    model: DualHeads, vectors: Mapping[Subnet, Tensor], part: Labelled, rows: slice
) -> Right:
    """Return which texts of a part get their own class, under every subnet."""
    truth = torch.tensor([label for _, label in part])
    found = {}
    for subnet in model.space:
        own = vectors[model.of_base(subnet)][rows]
        with torch.inference_mode():
            logits = model.heads_of(subnet)(float(subnet[AXIS]), own)
        found[subnet] = (logits.argmax(1) == truth).numpy()
    return found


def compared(
    model: DualHeads, chosen: Right, tested: Right, one: Right
) -> tuple[dict[str, Measured], dict[str, Measured]]:
    """Return what ways to choose alpha are worth, means over exits and widths.

    Args:
        model: Whose subnets they are.
        chosen: By which they choose.
        tested: What is reported.
        one: Likewise of the control, whose head of labels has learned from both.

    Returns:
        Accuracy by way, and how much that of the first is above each other's.
    """
    trunks = list(model.base.space)

    def best(alphas: Sequence[float], among: Sequence[Subnet]) -> float:
        def score(alpha: float) -> float:
            return float(np.mean([chosen[_at(alpha, trunk)] for trunk in among]))

        return max(alphas, key=score)

    ends, same = (LABELS, TEACHER), best(ALPHAS, trunks)
    ways: dict[str, Callable[[Subnet], float]] = {
        "alpha by exit and width": lambda trunk: best(ALPHAS, [trunk]),
        "one alpha": lambda _: same,
        "the better head": lambda trunk: best(ends, [trunk]),
        "the teacher's head": lambda _: TEACHER,
    }
    each = {
        name: np.mean([tested[_at(alpha(trunk), trunk)] for trunk in trunks], axis=0)
        for name, alpha in ways.items()
    }
    each["one head of both"] = np.mean([one[_at(LABELS, trunk)] for trunk in trunks], axis=0)
    first = next(iter(each.values()))
    score = {name: mean_of(own) for name, own in each.items()}
    return score, {name: mean_of(first - own) for name, own in list(each.items())[1:]}


def _at(alpha: float, trunk: Subnet) -> Subnet:
    return Subnet({AXIS: alpha}) | trunk
