"""What experts of all-MiniLM-L6-v2 cost before any training: calls, error, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from bench.claims import SEEDS, Claim
from bench.family_adapters import REQUESTS, TOKENS, rows_of, run, seconds_of
from bench.minilm import minilm_folder
from models.elasticize.expert_groups import with_experts_of
from models.families.exits import Exits
from models.families.experts import ALL, COUNT, RESIDENT, SKILL, ExpertModel, ExpertsConfig
from models.inputs import Given, Item
from models.space import Subnet
from search.offline.experts_training import COUNTS, EXPERTS, SHARED
from search.offline.wrapped_training import plain

_SKILLS = ("similarity", "intents", "code")
_FEW, _ALONE = 2, 15


def _model(base: Exits) -> ExpertModel:
    """Return experts in the order of the units, of which each skill uses four."""
    encoder = base.config.encoder
    shared = round(SHARED * encoder.ffn)
    uses = {
        name: (tuple(range(2 * i, 2 * i + 4)),) * encoder.layers for i, name in enumerate(_SKILLS)
    }
    units = (encoder.ffn - shared) // EXPERTS
    config = ExpertsConfig("exits", {}, EXPERTS, units, COUNTS, uses, (*_SKILLS, ALL))
    orders = [torch.arange(encoder.ffn)] * encoder.layers
    made = with_experts_of(base, "exits", orders, [], shared, config)
    made.attach(minilm_folder())
    return made.eval().requires_grad_(False)


def _draw(model: ExpertModel, seed: int, std: float = 0.02) -> None:
    """Let texts read experts at random."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.parts:
        assert part.content is not None
        part.content.normal_(std=std, generator=generator)


def _items(seed: int, skills: Sequence[int]) -> list[Item]:
    return [
        {
            "text": Given(row, i, len(row)),
            SKILL: Given(torch.tensor(skills[i % len(skills)]), skills[i % len(skills)], 0),
        }
        for i, row in enumerate(rows_of(seed))
    ]


def expert_rows(repeats: int) -> list[Claim]:
    """Return the claims of experts on one encoder."""
    base = plain(minilm_folder(), "minilm", {"similarity": "spearman"})
    calls: tuple[list[float], list[float]] = ([], [])
    errors, dense, few, every, whole = (list[float]() for _ in range(5))
    model = _model(base)
    subnet = Subnet(model.space.largest) | {COUNT: _FEW}
    for seed in SEEDS:
        mixed = _items(seed, (0, 1, 2))
        _draw(model, seed)
        found, number = run(model, mixed, subnet)
        calls[0].append(number)
        calls[1].append(run(model, _items(seed, (0,)), subnet)[1])
        alone = torch.cat([run(model, [one], subnet)[0] for one in mixed[:_ALONE]])
        errors.append(float((found[:_ALONE] - alone).abs().max()))
        texts = [{"text": one["text"]} for one in mixed]
        _draw(model, seed, 0.0)
        same = run(model, mixed)[0] - run(base, texts)[0]
        dense.append(float(same.abs().max()))
        few.append(REQUESTS / seconds_of(partial(run, model, mixed, subnet), repeats))
        every.append(REQUESTS / seconds_of(partial(run, model, mixed), repeats))
        whole.append(REQUESTS / seconds_of(partial(run, base, texts), repeats))
    shapes = {"text": (TOKENS,), SKILL: ()}
    cost = model.plan(subnet, shapes).cost
    small = model.plan(subnet | {RESIDENT: _SKILLS[0]}, shapes).cost
    zero, n = [0.0] * len(SEEDS), len(SEEDS)
    what = f"{REQUESTS} texts of 3 skills, {_FEW} of {EXPERTS} experts: "
    claim = partial(Claim, "experts")
    return [
        claim(what + "calls of steps", "one skill", *calls, "equal"),
        claim(what + "largest error", "texts alone; 1e-5", errors, zero, "equal", 1e-5),
        claim("all experts in equal parts: error", "the encoder; 1e-5", dense, zero, "equal", 1e-5),
        claim(what + "texts/s", "all experts", few, every, "more", macs=cost.macs),
        claim(what + "texts/s", "the encoder", few, whole, "more", macs=cost.macs),
        claim(
            f"experts of one skill, 4 of {EXPERTS}: MB",
            "all experts",
            [small.bytes / 1e6] * n,
            [cost.bytes / 1e6] * n,
            "less",
            bytes=small.bytes,
        ),
    ]
