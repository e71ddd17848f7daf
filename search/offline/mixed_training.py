"""What `rheostat train mixed` does around its recipe: an encoder in, mixes of two skills out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile

import torch
from pydantic import TypeAdapter
from torch import Tensor

from models import checkpoint, formats
from models.backends.torch import TorchBackend
from models.families.exits import Exits, ExitsConfig
from models.families.mixed import AXIS, Mixed, MixedConfig
from models.inputs.text import TOKENIZER, TextInput
from models.space import Subnet
from models.tasks import Metric
from models.train.skills import SkillRecipe, train_skill
from search.offline.adapter_training import AdapterLesson, examples_of, lessons
from search.offline.training import RECORD, RUN, machine, training_log
from search.quality.embeddings import Measured, scores, table_of
from search.quality.table import TABLE

SKILLS = ("similarity", "code")
BASE = "base"
BY_CHANGE = "by change"
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the first skill, on the line to the second
_LENGTH = 128
Coefficients = tuple[tuple[float, ...], ...]


def train_mixed(
    source: Path,
    root: Path,
    out: Path,
    name: str,
    recipe: SkillRecipe,
    report: Callable[[str], None],
) -> dict[str, dict[str, Measured]]:
    """Fine-tune an encoder for each skill, and write a checkpoint of mixes with its table.

    Args:
        source: A folder that `models.formats.read` reads.
        root: Folder of the data sets.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        By mix, the score of each skill on its test data.

    Raises:
        FileNotFoundError: If a data set is not there.
        FormatError: If the folder cannot be read exactly.
        ValueError: If ``out`` holds a run with another recipe.
    """
    data = {skill: lessons(root, recipe.seed)[skill] for skill in SKILLS}
    tasks = {skill: one.metric for skill, one in data.items()}
    base = plain(source, name, tasks)
    text = TextInput.load(replace(base.config.text, max_length=recipe.max_tokens), source)
    skills = []
    for skill, one in data.items():
        report(f"training for {skill}")
        tuned = plain(source, name, tasks)
        train_skill(tuned, examples_of(one, text), recipe, out / RUN / skill)
        skills.append(tuned)
    model = mixed_of(base, skills, source)
    report("measuring")
    copyfile(source / TOKENIZER, out / TOKENIZER)
    chosen, tested = (measured(model, data, side) for side in ("chosen", "tested"))
    subnets = list(model.space)
    cells = {skill: [chosen[str(one[AXIS])][skill] for one in subnets] for skill in SKILLS}
    table_of(model, subnets, cells).save(out / TABLE, model.space)
    told = {mix: {k: m._asdict() for k, m in own.items()} for mix, own in tested.items()}
    logs = {skill: training_log(out / RUN / skill, ".") for skill in SKILLS}
    record = {"recipe": asdict(recipe), "test": told, "steps": logs, "machine": machine()}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    checkpoint.save(out, model, "mixed", torch.float32, (TOKENIZER, TABLE, RECORD))
    return tested


def plain(source: Path, name: str, tasks: Mapping[str, Metric]) -> Exits:
    """Return a public encoder whose last layer alone answers some tasks."""
    base: Exits = formats.read(source, name)
    text = replace(base.config.text, max_length=min(_LENGTH, base.config.text.max_length))
    whole = (base.config.encoder.layers,)
    made = Exits(
        name,
        replace(base.config, depths=whole, dims=base.config.dims[-1:], tasks=tasks, text=text),
    )
    state = base.state_dict()
    made.load_state_dict({key: state[key] for key in made.state_dict()})
    made.attach(source)
    return made.eval().requires_grad_(False)


def mixed_of(base: Exits, skills: Sequence[Exits], folder: Path) -> Mixed:
    """Return the mixes of fine-tuned encoders: on the line between two, by change, and none.

    Args:
        base: What they were before.
        skills: One for each of `SKILLS`.
        folder: Of the tokenizer.
    """
    blocks = tuple(f"layers.{i}" for i in range(base.config.encoder.layers))
    changes = [block_changes(base, one, blocks) for one in skills]
    mixes: dict[str, Coefficients] = {}
    for share in SHARES:
        label = f"{SKILLS[0]} {share:g}, {SKILLS[1]} {1 - share:g}"
        mixes[label] = tuple((one,) * len(blocks) for one in (share, 1 - share))
    totals = [sum(own) for own in zip(*changes, strict=True)]
    mixes[BY_CHANGE] = tuple(
        tuple(c / total if total else 0.5 for c, total in zip(own, totals, strict=True))
        for own in changes
    )
    mixes[BASE] = ((0.0,) * len(blocks),) * len(skills)
    config = TypeAdapter(ExitsConfig).dump_python(base.config, mode="json")
    made = Mixed(base.name, MixedConfig("exits", config, SKILLS, blocks, mixes))
    made.base.load_state_dict(base.state_dict())
    for own, skill in zip(made.skills, skills, strict=True):
        weights: dict[str, Tensor] = dict(skill.named_parameters())
        for i, key in enumerate(made.names):
            own[i].data.copy_(weights[key])  # type: ignore[index]  # a list of parameters
    made.attach(folder)
    return made.eval().requires_grad_(False)


def block_changes(base: Exits, skill: Exits, blocks: Sequence[str]) -> list[float]:
    """Return how far each block of weights has moved: the norm of its change.

    Source: CoDiEmb (Zhang et al. 2025, arXiv 2508.11442), which fuses by such deviations.
    """
    before = dict(base.named_parameters())
    squares = dict.fromkeys(blocks, 0.0)
    for key, one in skill.named_parameters():
        for block in blocks:
            if key.startswith(f"{block}."):
                squares[block] += float((one - before[key]).square().sum())
    return [square**0.5 for square in squares.values()]


def measured(
    model: Mixed, data: Mapping[str, AdapterLesson], side: str
) -> dict[str, dict[str, Measured]]:
    """Return by mix the score of each skill, on development data or on test data."""
    found: dict[str, dict[str, Measured]] = {}
    for mix in model.config.mixes:
        one = model.variant({AXIS: mix}).base
        backend = TorchBackend()
        backend.prepare(one)
        whole = [Subnet(one.space.largest)]
        found[mix] = {
            skill: scores(one, backend, getattr(lesson, side), whole)[0]
            for skill, lesson in data.items()
        }
    return found
