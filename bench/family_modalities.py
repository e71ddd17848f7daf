"""Claims of one model of several maps before any training: error, MACs, time, what is not read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

import torch
from torch import Tensor

from bench.claims import SEEDS, Claim
from bench.dense_data import TASKS, scenes
from bench.family_adapters import seconds_of
from models.backends.torch import TorchBackend
from models.families.modalities import Modalities
from models.inputs import Item
from models.inputs.image import ImageInput
from models.run.jobs import Done, Job
from models.space import Subnet
from models.train.modalities import maps_of
from models.train.vision import VisionData
from search.offline.modalities_training import INPUTS, config_of

_SIDE, _SCENES = 64, 28  # pixels; four scenes for each set of inputs
_FEW, _SHARE = 0.25, 0.3


def _model(seed: int) -> tuple[Modalities, list[Item]]:
    """Return an untrained model, and scenes with all inputs."""
    pictures = scenes(seed, _SCENES, _SIDE, _SIDE)
    form = ImageInput(_SIDE, _SIDE, (0.5,) * 3, (0.25,) * 3)
    data = VisionData("scenes", {task.name: task for task in TASKS}, form, *(pictures,) * 3)
    torch.manual_seed(seed)
    model = Modalities("modalities", config_of(data, None)).eval().requires_grad_(False)
    maps = maps_of(model, pictures)
    rows = range(_SCENES)
    return model, [model.inputs.item({name: one[i] for name, one in maps.items()}) for i in rows]


def _job(model: Modalities, item: Item, subnet: Subnet) -> Job:
    own = {name: item[name] for name in model.named(subnet)}
    return Job(model.plan(subnet, model.inputs.shapes(own)), own)


def _run(model: Modalities, jobs: Sequence[Job]) -> list[Tensor]:
    """Return the answers of each job, all tasks in one row."""
    found: dict[int, Tensor] = {}
    for answers in TorchBackend().execute(list(jobs), model.inputs.collate):
        for j, done in answers:
            if not isinstance(done, Done):
                raise done
            found[j] = torch.cat([one.flatten() for one in done.outputs.values()])
    return [found[j] for j, _ in enumerate(jobs)]


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs() / (1 + other.abs())


def modalities(repeats: int) -> list[Claim]:
    """Return the claims of one model of several maps."""
    errors, changes = list[float](), list[float]()
    rates: tuple[list[float], list[float]] = ([], [])
    for seed in SEEDS:
        model, items = _model(seed)
        rng, sets = Random(seed), model.space.axes[0].values
        jobs = [
            _job(model, item, model.space.sample(rng) | {INPUTS: sets[i % len(sets)]})
            for i, item in enumerate(items)
        ]
        alone = [_run(model, [job])[0] for job in jobs]
        pairs = zip(_run(model, jobs), alone, strict=True)
        # As the kit has it: of 1 and of the value.
        errors.append(max(float(_apart(one, other).max()) for one, other in pairs))
        whole = model.space.largest | {INPUTS: "image"}
        few, every = (
            [_job(model, item, whole | {"tokens": share}) for item in items]
            for share in (_FEW, 1.0)
        )
        for own, batch in zip(rates, (few, every), strict=True):
            own.append(_SCENES / seconds_of(partial(_run, model, batch), repeats))
        before = _run(model, every)
        for name in ("depth", "edges"):
            for weight in model.patches_of(name).parameters():
                weight.fill_(torch.nan)
        pairs = zip(_run(model, every), before, strict=True)
        changes.append(max(float((one - other).abs().max()) for one, other in pairs))
    zero, claim = [0.0] * len(SEEDS), partial(Claim, "modalities")
    mixed = f"{_SCENES} scenes of all sets of inputs, tokens and widths: largest error"
    return [
        claim(mixed, "scenes alone; 1e-5 of 1 + value", errors, zero, "equal", 1e-5),
        claim("image; NaN in depth's and edges' weights: change", "0", changes, zero, "equal"),
        claim("image, a quarter of the tokens: scenes/s", "all tokens", *rates, "more"),
        *_prices(_model(0)[0]),
    ]


def _prices(model: Modalities) -> list[Claim]:
    """Return what a quarter of the tokens costs of all, counted, by inputs."""
    found, n = [], len(SEEDS)
    for names in ("image", "image+depth", "image+depth+edges"):
        whole = model.space.largest | {INPUTS: names}
        shapes = model.inputs.plan_shapes(names=model.named(whole))
        few, every = (
            model.plan(whole | {"tokens": share}, shapes).cost.macs for share in (_FEW, 1.0)
        )
        said, share = f"{names}, a quarter of the tokens: share of MACs", few / every
        found.append(
            Claim("modalities", said, f"{_SHARE:g}", [share] * n, [_SHARE] * n, "less", macs=few)
        )
    return found
