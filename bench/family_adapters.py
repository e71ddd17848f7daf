"""Claims of adapters on one trunk: all-MiniLM-L6-v2, with 16 adapters of random factors."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from bench.claims import SEEDS, Claim
from bench.minilm import minilm_folder
from models.backends.torch import TorchBackend
from models.export.merged import merged
from models.families.adapted import Adapted
from models.inputs import Given, Item
from models.inputs.adapter import KIND
from models.nn.low_rank import LowRank, ordered
from models.nn.ragged import Value
from models.run.chain import Chain
from models.run.execution import never
from models.run.jobs import Done, Job
from models.space import Subnet
from search.offline.adapter_training import untrained

REQUESTS, TOKENS = 64, 16
_ADAPTERS, _RANK = 16, 8


class Counted(TorchBackend):
    """Counts the steps that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[object] = Counter()

    def run_chain(
        self, chain: Chain, inputs: Sequence[Value], stop: Callable[[], bool] = never
    ) -> Value:
        """Run a chain as any other back end does."""
        self.calls.update(step.identity for step in chain.steps)
        return super().run_chain(chain, inputs, stop)


@lru_cache(1)
def _trunk() -> Adapted:
    return untrained(minilm_folder(), "minilm", {"similarity": "spearman"}, _RANK)


def with_random_adapters(seed: int) -> tuple[Adapted, float, float]:
    """Return the real encoder with random adapters, in order of what their ranks are worth.

    Returns:
        The model, and what a quarter of the rank leaves out: in this order, and in that drawn.
    """
    names = tuple(f"client-{i}" for i in range(_ADAPTERS))
    model = Adapted("minilm", replace(_trunk().config, adapters=names))
    model.base = _trunk().base
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    few, whole, left_out = model.config.ranks[0], 0.0, [0.0, 0.0]
    for part in model.modules():
        for i in range(_ADAPTERS if isinstance(part, LowRank) else 0):
            assert isinstance(part, LowRank)
            drawn = [
                0.05 * torch.randn(one.shape[1:], generator=generator)
                for one in (part.down, part.up)
            ]
            best = ordered(*drawn)
            part.down[i], part.up[i] = best
            whole += _size(*drawn)
            for k, (down, up) in enumerate((best, drawn)):
                left_out[k] += _size(down[few:], up[few:])
    return model, *((one / whole) ** 0.5 for one in left_out)


def _size(down: Tensor, up: Tensor) -> float:
    """Return the squared norm of a product of factors, without writing it out."""
    return float(((down @ down.T) * (up @ up.T)).sum())


def adapters(repeats: int) -> list[Claim]:
    """Return the claims of adapters on one trunk."""
    runs = [_adapters_once(seed, repeats) for seed in SEEDS]
    own, other = (
        {name: [one[side][name] for one in runs] for name in runs[0][0]} for side in (0, 1)
    )
    model, _, _ = with_random_adapters(0)
    cost = model.plan(model.space.largest, {"text": (TOKENS,), KIND: ()}).cost
    alone = model.plan(model.space.smallest, {"text": (TOKENS,)}).cost
    what = f"{REQUESTS} requests, {_ADAPTERS} adapters: "
    few = f"rank {model.config.ranks[0]} of {_RANK}: part left out"

    def claim(name: str, said: str, control: str, *rest: Any) -> Claim:
        return Claim("adapted", said, control, own[name], other[name], *rest)

    return [
        claim("calls", what + "calls of steps", "one adapter", "equal"),
        claim("error", what + "largest error", "merged; 1e-5", "equal", 1e-5),
        claim("rate", what + "texts/s", "merged copies", "more", 0.0, cost.macs),
        claim("rate_alone", what + "texts/s", "no adapter", "less", 0.0, alone.macs),
        claim("bytes", f"{_ADAPTERS} adapters: MB", "merged copies", "less", 0.0, None, cost.bytes),
        claim("left_out", few, "ranks as they came", "less"),
    ]


def _adapters_once(seed: int, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return what one seed gives, and what its controls do."""
    model, left_out, unordered = with_random_adapters(seed)
    rows = rows_of(seed)
    mixed = [_item(row, f"client-{i % _ADAPTERS}", model) for i, row in enumerate(rows)]
    single = [_item(row, "client-0", model) for row in rows]
    found, calls = run(model, mixed)
    merges = {name: merged(model, name) for name in model.config.adapters}
    groups = [(merges[name], [o for o in mixed if _named(o) == name]) for name in merges]
    expected = torch.stack([_merged(one, own) for one, own in groups], 1).flatten(0, 1)
    seconds = seconds_of(lambda: run(model, mixed), repeats)
    apart = seconds_of(lambda: [_merged(one, own) for one, own in groups], repeats)
    alone = seconds_of(lambda: _merged(model.base, mixed), repeats)
    trunk, low = (sum(p.nbytes for p in part.parameters()) for part in (model.base, model.low))
    own = {
        "calls": calls,
        "error": float((found - expected).abs().max()),
        "rate": REQUESTS / seconds,
        "rate_alone": REQUESTS / seconds,
        "bytes": (trunk + low) / 1e6,
        "left_out": left_out,
    }
    other = {
        "calls": run(model, single)[1],
        "error": 0.0,
        "rate": REQUESTS / apart,
        "rate_alone": REQUESTS / alone,
        "bytes": _ADAPTERS * trunk / 1e6,
        "left_out": unordered,
    }
    return own, other


def rows_of(seed: int) -> list[Tensor]:
    """Return the tokens of some texts."""
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    lengths = [rng.randint(TOKENS // 2, 2 * TOKENS) for _ in range(REQUESTS)]
    return [torch.randint(1000, 20_000, (n,), generator=generator) for n in lengths]


def _item(row: Tensor, adapter: str, model: Adapted) -> Item:
    number = torch.tensor(model.config.adapters.index(adapter))
    return {"text": Given(row, id(row), len(row)), KIND: Given(number, adapter, 0)}


def _named(item: Item) -> str:
    return str(item[KIND].digest)


def run(model: Any, items: Sequence[Item], subnet: Subnet | None = None) -> tuple[Tensor, int]:
    """Return the vectors of items, and how many calls of steps they took.

    Args:
        model: Of texts of about 16 tokens.
        items: Of the same inputs.
        subnet: None for the largest.
    """
    backend = Counted()
    backend.prepare(model)
    plan = model.plan(
        subnet or Subnet(model.space.largest),
        {name: (TOKENS,) if name == "text" else () for name in items[0]},
    )
    found: dict[int, Tensor] = {}
    for answers in backend.execute([Job(plan, one) for one in items], model.inputs.collate):
        for j, done in answers:
            if not isinstance(done, Done):
                raise done
            (found[j],) = done.outputs.values()
    return torch.stack([found[j] for j in range(len(items))]), sum(backend.calls.values())


def _merged(model: Any, items: Sequence[Item]) -> Tensor:
    return run(model, [{"text": one["text"]} for one in items])[0]


def seconds_of(run: Callable[[], object], repeats: int) -> float:
    """Return the median of some runs after a first one."""
    run()
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        taken.append(perf_counter() - start)
    return statistics.median(taken)
