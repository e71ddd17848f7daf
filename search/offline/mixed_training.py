"""What `rheostat train mixed` does around its recipe: an encoder in, mixes of two skills out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from models import families
from models.backends.torch import TorchBackend
from models.families.exits import Exits
from models.families.mixed import AXIS, Mixed, MixedConfig
from models.inputs.text import TextInput
from models.space import Subnet
from models.train.skills import SkillRecipe, train_skill
from search.offline.adapter_training import AdapterLesson, examples_of, lessons
from search.offline.training import RUN, training_log
from search.offline.wrapped_training import (
    around,
    plain,
    scores_told,
    write_trained,
)
from search.quality.embeddings import Measured, scores, table_of

SKILLS = ("similarity", "code")
BASE = "base"
BY_CHANGE = "by change"
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the first skill, on the line to the second
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
    chosen, tested = (measured(model, data, side) for side in ("chosen", "tested"))
    subnets = list(model.space)
    cells = {skill: [chosen[str(one[AXIS])][skill] for one in subnets] for skill in SKILLS}
    logs = {skill: training_log(out / RUN / skill, ".") for skill in SKILLS}
    told = {"test": scores_told(tested), "steps": logs}
    write_trained(model, "mixed", source, out, table_of(model, subnets, cells), recipe, told)
    return tested


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
    made = Mixed(
        base.name, MixedConfig("exits", families.as_json(base.config), SKILLS, blocks, mixes)
    )
    for own, skill in zip(made.skills, skills, strict=True):
        weights: dict[str, Tensor] = dict(skill.named_parameters())
        for i, key in enumerate(made.names):
            own[i].data.copy_(weights[key])  # type: ignore[index]  # a list of parameters
    around(made, base, folder)
    return made


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
