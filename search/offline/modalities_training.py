"""What `rheostat train modalities` does around its recipe: a folder of images in, a checkpoint out.

Maps of depth and of edges are inputs beside the image; all other maps are what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.families.modalities import Modalities, ModalitiesConfig, Modality
from models.inputs.tensor import TensorInput
from models.nn.architecture import TransformerConfig
from models.space import Subnet
from models.tasks import Metric
from models.train.maps import Ratios, joined, judge_of, parts_of, scale_of
from models.train.modalities import ModalityRecipe, answers, maps_of, train_modalities
from models.train.vision import Pictures, VisionData
from search.offline.training import RUN, training_log
from search.offline.vision_data import read_vision
from search.offline.wrapped_training import scores_told, write_trained
from search.quality.embeddings import Measured, mean_of
from search.quality.measure import measure
from search.quality.table import FloatArray, Table

IMAGE, INPUTS = "image", "inputs"
_GIVEN: tuple[Metric, ...] = ("rmse", "f1")  # of tasks whose maps are inputs here
_ENCODER = TransformerConfig(
    vocab_size=1,
    hidden=128,
    layers=4,
    heads=8,
    kv_heads=8,
    head_dim=16,
    ffn=512,
    norm="pre",
    norm_eps=1e-6,
    max_positions=1,
)
_DRAWS, _BATCH = 3, 64  # of random tokens; scenes at a time
RANDOM = "random"
Scores = dict[str, dict[str, Measured]]


def train_modalities_of(
    folder: Path,
    out: Path,
    name: str,
    inputs: str | None,
    recipe: ModalityRecipe,
    report: Callable[[str], None],
) -> Scores:
    """Train a model on a folder of images and write a checkpoint that can be served.

    Args:
        folder: With `dataset.toml`.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        inputs: Names of the inputs that the model takes, joined by ``+``; None for all.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        On test scenes, by inputs, tokens and width, the score of each task.

    Raises:
        DataError: As `search.offline.vision_data.read_vision`.
        ValueError: If an input is not in the data, or ``out`` holds a run with another recipe.
    """
    data = read_vision(folder, report)
    torch.manual_seed(recipe.seed)
    model = Modalities(name, config_of(data, inputs))
    report("training")
    model = train_modalities(model, data.train, data.tasks, recipe, out / RUN)
    model.requires_grad_(False)
    backend = TorchBackend()
    backend.prepare(model)
    report("measuring")
    table = table_of(model, data.validation, backend)
    tested = test_scores(model, data.test, backend, recipe.seed)
    record = {"test": scores_told(tested), "macs": macs_of(model), "steps": training_log(out)}
    write_trained(model, "modalities", None, out, table, recipe, record)
    return tested


def config_of(data: VisionData, inputs: str | None) -> ModalitiesConfig:
    """Return the architecture for a data set; ValueError for inputs that it does not have."""
    shape = (1, data.input.height, data.input.width)
    found = {IMAGE: Modality(IMAGE, data.input)}
    for name, task in data.tasks.items():
        if task.metric in _GIVEN:
            least, most = (0.0, 1.0) if task.metric == "f1" else (None, None)
            made = Modality(name, TensorInput(shape, least=least, most=most))
            if task.metric == "rmse":
                scale = scale_of(task, data.train.truth[name])
                made = replace(made, middle=float(scale.middle), spread=float(scale.spread))
            found[name] = made
    names = list(found) if inputs is None else inputs.split("+")
    if unknown := [one for one in names if one not in found]:
        raise ValueError(f"inputs: {unknown[0]!r} is not in the data; of {list(found)}")
    tasks = [task for task in data.tasks.values() if task.kind == "map" and task.name not in found]
    return ModalitiesConfig(
        tuple(one for name, one in found.items() if name in names), tuple(tasks), _ENCODER
    )


def table_of(model: Modalities, pictures: Pictures, backend: TorchBackend) -> Table:
    """Measure every subnet; what is seen of some inputs says nothing of others."""
    maps, found = maps_of(model, pictures), list[Table]()
    for names in model.space.axes[0].values:
        own = {name: maps[name] for name in model.named({INPUTS: names})}
        examples = {task: (own, pictures.truth[task]) for task in model.tasks}
        found.append(measure(model, backend, examples, within={INPUTS: names}))
    cells = {task: found[0].cells[task] for task in model.tasks}
    for more in found[1:]:
        cells = {task: cell.above(more.cells[task]) for task, cell in cells.items()}
    return Table(tuple(row for one in found for row in one.rows), cells, (INPUTS,))


class _Judged:
    """What each scene adds to the scores of all tasks, collected batch after batch."""

    def __init__(self, model: Modalities, pictures: Pictures) -> None:
        self._judges = {name: judge_of(task) for name, task in model.tasks.items()}
        self._truth = pictures.truth
        self._ratios: dict[str, list[Ratios]] = {name: [] for name in self._judges}

    def add(self, found: Mapping[str, Tensor], part: slice) -> None:
        """Take in the answers about some scenes."""
        for name, judge in self._judges.items():
            self._ratios[name].append(judge(found[name], self._truth[name][part]))

    def parts(self) -> dict[str, FloatArray]:
        """Return numbers of each scene whose mean is the score, by task."""
        return {name: parts_of(joined(own)).numpy() for name, own in self._ratios.items()}


def test_scores(model: Modalities, pictures: Pictures, backend: TorchBackend, seed: int) -> Scores:
    """Return the scores of all subnets, and of tokens drawn at random, by what each is called."""
    maps, found = maps_of(model, pictures), dict[str, dict[str, Measured]]()
    for names in model.space.axes[0].values:
        own = {name: maps[name] for name in model.named({INPUTS: names})}
        shapes = {name: tuple(one.shape[1:]) for name, one in own.items()}
        plans = {one: model.plan(one, shapes) for one in model.space if one[INPUTS] == names}
        judged = {subnet: _Judged(model, pictures) for subnet in plans}
        for part in _batches(pictures):
            batch = {name: one[part] for name, one in own.items()}
            answered = backend.run_all(list(plans.values()), batch)
            for one, own_answers in zip(judged.values(), answered, strict=True):
                one.add(own_answers, part)
        found |= {called(subnet): _measured(one.parts()) for subnet, one in judged.items()}
    for subnet in model.space:
        if subnet["width"] == 1 and subnet["tokens"] != 1:
            found[f"{called(subnet)}, {RANDOM}"] = at_random(model, subnet, maps, pictures, seed)
    return found


@torch.no_grad()
def at_random(
    model: Modalities,
    subnet: Subnet,
    maps: Mapping[str, Tensor],
    pictures: Pictures,
    seed: int,
) -> dict[str, Measured]:
    """Return the scores where each batch of scenes is seen by tokens of its own, drawn at random.

    Of each scene the mean over draws counts.
    """
    rng, names = Random(seed), model.named(subnet)
    draws = []
    for _ in range(_DRAWS):
        judged = _Judged(model, pictures)
        for part in _batches(pictures):
            places = range(model.config.places)
            ranks = {name: torch.tensor(rng.sample(places, model.kept(subnet))) for name in names}
            batch = {name: maps[name][part] for name in names}
            judged.add(answers(model, batch, ranks, subnet), part)
        draws.append(judged.parts())
    return _measured({task: np.mean([one[task] for one in draws], axis=0) for task in draws[0]})


def _batches(pictures: Pictures) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, len(pictures), _BATCH)]


def _measured(parts: Mapping[str, FloatArray]) -> dict[str, Measured]:
    """Return means over scenes with their standard errors, by task."""
    return {task: mean_of(own) for task, own in parts.items()}


def called(subnet: Subnet) -> str:
    """Return what a record calls a subnet."""
    return f"{subnet[INPUTS]}, tokens {subnet['tokens']:g}, width {subnet['width']:g}"


def macs_of(model: Modalities) -> dict[str, int]:
    """Return the MACs of each subnet, all tasks together."""
    found = {}
    for subnet in model.space:
        shapes = model.inputs.plan_shapes(names=model.named(subnet))
        found[called(subnet)] = model.plan(subnet, shapes).cost.macs
    return found


def told(tested: Scores) -> Scores:
    """Return the scores that a command prints: of all tokens at full width, by inputs."""
    whole = ", tokens 1, width 1"
    return {key.removesuffix(whole): own for key, own in tested.items() if key.endswith(whole)}
