"""What `rheostat train experts` does around its recipe: an encoder in, experts of its units out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import Plan, Shapes, Step
from models.elasticize.expert_groups import ordered_units, with_experts_of
from models.elasticize.ranking import contribution
from models.elasticize.streams import Stack, observe
from models.families.exits import Exits
from models.families.experts import ALL, COUNT, RESIDENT, SKILL, ExpertModel, ExpertsConfig
from models.inputs import Inputs
from models.inputs.text import TextInput
from models.nn.ragged import Ragged
from models.nn.transformer import layers_of
from models.space import Subnet, Value
from models.train.examples import Distances
from models.train.experts import ExpertRecipe, train_experts, use_of
from search.offline.adapter_training import AdapterLesson, lessons
from search.offline.training import RUN, training_log
from search.offline.wrapped_training import plain, scores_told, write_trained
from search.quality.embeddings import Measured, scores, table_of
from search.quality.whole_agreement import whole_answers

EXPERTS, SHARED, COUNTS = 8, 0.25, (1, 2, 4, 8)
KEPT_FOR = 2  # experts that an item reads where only its skill's own are there
_TEXTS, _WORTH_TEXTS, _USE_TEXTS = 1500, 200, 500  # of each skill
_QUERIES = 100  # of development data: all rows of the table are measured on it

Scores = dict[str, dict[str, Measured]]


class Skilled:
    """A model of experts as one of texts alone, all of a skill or of none.

    Attributes:
        model: Of texts that may name a skill.
        skill: That all texts name; None for none.
    """

    def __init__(self, model: ExpertModel, skill: str | None) -> None:
        self.model, self.skill = model, skill
        self.name, self.tasks, self.space = model.name, model.tasks, model.space
        self.inputs: Inputs = model.base.inputs

    def tokens(self, shapes: Shapes) -> int:
        """Return the tokens that the layers see."""
        return self.model.tokens(shapes)

    def variant(self, choices: Mapping[str, Value]) -> Skilled:
        """Return the model with some experts only."""
        return Skilled(self.model.variant(choices), self.skill)

    def plan(self, subnet: Subnet, shapes: Shapes, tasks: Collection[str] | None = None) -> Plan:
        """Return the plan of texts that all name the skill."""
        if self.skill is None:
            return self.model.plan(subnet, shapes, tasks)
        number = list(self.model.config.uses).index(self.skill)
        given = Step((SKILL, number), partial(_same, number), ("text",))
        plan = self.model.plan(subnet, {**shapes, SKILL: ()}, tasks)
        return plan.rewritten(
            lambda step, takes: replace(
                step, takes=tuple(given if one == SKILL else one for one in takes)
            )
        )


def _same(number: int, texts: Ragged) -> Tensor:
    return torch.full((len(texts),), number, device=texts.layout.device)


class Pool(NamedTuple):
    """What experts learn from.

    Attributes:
        texts: Of all skills, with the vectors that the whole model gives.
        skills: Of each text, its number.
    """

    texts: Distances
    skills: list[int]

    def of(self, skill: int, most: int) -> list[Tensor]:
        """Return the tokens of some texts of a skill."""
        own = zip(self.texts.tokens, self.skills, strict=True)
        return [tokens for tokens, one in own if one == skill][:most]


def train_experts_of(
    source: Path,
    root: Path,
    out: Path,
    name: str,
    recipe: ExpertRecipe,
    report: Callable[[str], None],
) -> Scores:
    """Turn a public encoder's units into experts, train them and write a checkpoint with its table.

    Args:
        source: A folder that `models.formats.read` reads.
        root: Folder of the data sets.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        Of each skill on its test data: the whole encoder's score and those by experts read.

    Raises:
        FileNotFoundError: If a data set is not there.
        FormatError: If the folder cannot be read exactly.
        ValueError: If ``out`` holds a run with another recipe.
    """
    data = lessons(root, recipe.seed, _QUERIES)
    base = plain(source, name, {key: one.metric for key, one in data.items()})
    report("embedding texts")
    pool = pool_of(base, data, source, recipe)
    model = untrained(base, source, pool, recipe)
    report("training")
    train_experts(model, pool.texts, pool.skills, recipe, out / RUN)
    report("measuring")
    used = [use_of(model, pool.of(i, _USE_TEXTS), i, KEPT_FOR) for i, _ in enumerate(data)]
    model = with_uses(model, kept(used, data, recipe.threshold))
    tested = tests_of(model, base, data)
    subnets = list(model.space)
    cells = {key: chosen_scores(model, key, one, subnets) for key, one in data.items()}
    told = {
        "test": scores_told(tested),
        "kept": {skill: list(map(len, own)) for skill, own in model.config.uses.items()},
        "used": {
            skill: [one.tolist() for one in own] for skill, own in zip(data, used, strict=True)
        },
        "steps": training_log(out),
    }
    write_trained(model, "experts", source, out, table_of(model, subnets, cells), recipe, told)
    return tested


def pool_of(
    base: Exits, data: Mapping[str, AdapterLesson], source: Path, recipe: ExpertRecipe
) -> Pool:
    """Return texts of train splits with the vectors that the whole encoder gives."""
    text = TextInput.load(replace(base.config.text, max_length=recipe.max_tokens), source)
    found, skills = list[str](), list[int]()
    for number, lesson in enumerate(data.values()):
        every = sorted({str(one) for pair in lesson.pairs for one in pair[:2]})
        found += Random(recipe.seed).sample(every, min(_TEXTS, len(every)))
        skills += [number] * (len(found) - len(skills))
    backend = TorchBackend()
    backend.prepare(base)
    vectors = torch.from_numpy(whole_answers(base, backend, found)).float()
    return Pool(Distances([text.encode(one, truncate="right") for one in found], vectors), skills)


def untrained(base: Exits, source: Path, pool: Pool, recipe: ExpertRecipe) -> ExpertModel:
    """Return an encoder whose units are put into experts, and that answers as it did."""
    layers, encoder = layers_of(base), base.config.encoder
    skills, stack, each = list(base.tasks), Stack(base), []
    for number, _ in enumerate(skills):
        with torch.no_grad():
            entry = [stack.enter(Ragged.pack(pool.of(number, _WORTH_TEXTS)))]
        each.append(contribution(layers, observe(layers, entry)))
    worth = [torch.stack([own[i].units for own in each]) for i, _ in enumerate(layers)]
    shared = round(SHARED * encoder.ffn)
    orders = [ordered_units(own) for own in worth]
    every = (tuple(range(EXPERTS)),) * len(layers)
    units = (encoder.ffn - shared) // EXPERTS
    config = ExpertsConfig(
        "exits", {}, EXPERTS, units, COUNTS, dict.fromkeys(skills, every), routing="content"
    )
    made = with_experts_of(base, "exits", orders, worth if recipe.gated else [], shared, config)
    made.attach(source)
    return made.eval().requires_grad_(False)


def kept(
    used: Sequence[Sequence[Tensor]], skills: Collection[str], threshold: float
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return each skill's own experts of every layer: those that enough of its texts read.

    Args:
        used: By skill and layer, what share of its texts reads each expert.
        skills: Their names.
        threshold: Share of texts.
    """
    found = {}
    for skill, layers in zip(skills, used, strict=True):
        own = []
        for shares in layers:
            least = min(threshold, float(shares.sort(descending=True).values[KEPT_FOR - 1]))
            is_kept = (shares >= least) & (shares > 0)
            own.append(tuple(is_kept.nonzero()[:, 0].tolist()))
        found[skill] = tuple(own)
    return found


def with_uses(model: ExpertModel, uses: Mapping[str, tuple[tuple[int, ...], ...]]) -> ExpertModel:
    """Return the model whose skills read their own experts only; tensors are shared."""
    order = sorted(uses, key=lambda skill: sum(map(len, uses[skill])))
    made = ExpertModel(model.name, replace(model.config, uses=uses, resident=(*order, ALL)))
    made.load_state_dict(model.state_dict(), assign=True)
    made._modules["base"] = model.base  # it has the tokenizer
    return made.eval().requires_grad_(False)


def tests_of(model: ExpertModel, base: Exits, data: Mapping[str, AdapterLesson]) -> Scores:
    """Return scores on test data: of the whole encoder, by experts read, and of another skill."""
    found: Scores = {}
    for place, (skill, lesson) in enumerate(data.items()):
        backend = TorchBackend()
        backend.prepare(base)
        (whole,) = scores(base, backend, lesson.tested, [base.space.largest])
        own = {"whole": whole}
        subnets = [_subnet(model, count) for count in COUNTS]
        measured = _scores(model, skill, lesson.tested, subnets)
        own |= {f"{count}": one for count, one in zip(COUNTS, measured, strict=True)}
        other = list(data)[place - 1]
        (own["other skill"],) = _scores(model, other, lesson.tested, [_subnet(model, KEPT_FOR)])
        found[skill] = own
    return found


def _subnet(model: ExpertModel, count: int, resident: str = ALL) -> Subnet:
    return model.space.largest | {COUNT: count, RESIDENT: resident, "inputs": f"text+{SKILL}"}


def _scores(
    model: ExpertModel, skill: str | None, data: Any, subnets: Sequence[Subnet]
) -> list[Measured]:
    backend = TorchBackend()
    backend.prepare(model)
    return scores(Skilled(model, skill), backend, data, subnets)


def chosen_scores(
    model: ExpertModel, skill: str, lesson: AdapterLesson, subnets: Sequence[Subnet]
) -> list[Measured]:
    """Return a skill's scores on development data under each subnet; equal ones are run once."""
    found: dict[Subnet, Measured] = {}
    for is_given in (True, False):
        own = [one for one in subnets if model.is_named(one) == is_given]
        # What a skill's own experts answer does not depend on what else is there.
        least = model.config.least(skill)
        same = {
            one: one | {RESIDENT: ALL}
            if is_given and one[RESIDENT] == skill and int(one[COUNT]) <= least
            else one
            for one in own
        }
        distinct = list(dict.fromkeys(same.values()))
        values = _scores(model, skill if is_given else None, lesson.chosen, distinct)
        measured = dict(zip(distinct, values, strict=True))
        found |= {one: measured[other] for one, other in same.items()}
    return [found[one] for one in subnets]
