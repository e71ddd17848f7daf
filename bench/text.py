"""Does time follow FLOPs? Tokens per second and latency of subnets of a text encoder, on one batch.

By default the shipped encoder. --shape takes one of MiniLM's shape with random weights: time does
not depend on weights. Memory is shown before loading, after it, and after every subnet has run.
The lengths of the texts are drawn once, as in a set of short sentences (mean about 14 tokens), or
are all equal with --length. Each subnet's time is the median over rounds in which all subnets take
turns, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from bench import report
from models import checkpoint
from models.backends.torch import TorchBackend
from models.core import Plan, plan_cost
from models.families.exits import Exits, ExitsConfig
from models.inputs.text_config import TextConfig
from models.nn.architecture import TransformerConfig
from models.nn.ragged import Ragged
from models.space import Subnet
from models.variants import choices_of, loaded
from server import process

BATCH_SIZES = (1, 8, 32)
_SHORTEST, _LONGEST, _MEAN, _SPREAD = 5, 60, 2.5, 0.45  # of a log-normal length


def main() -> None:
    """Time every chosen subnet at every batch size."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, metavar="DIR", help="checkpoint of the family exits")
    options.add_argument("--shape", action="store_true", help="random weights of MiniLM's shape")
    options.add_argument("--length", type=int, metavar="N", help="every text has N tokens")
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    chosen = options.parse_args()
    process.tune()  # memory as the server has it
    memory: list[list[object]] = [["before loading", report.resident_mb()]]
    folder = chosen.model or report.ZOO_TEXT
    model = _shaped_like_minilm() if chosen.shape else checkpoint.load(folder).model
    memory.append(["loaded", report.resident_mb()])
    backend = TorchBackend(chosen.device)
    backend.prepare(model)
    rng = Random(0)
    rounds = 5 if chosen.quick else 30
    rows: list[list[object]] = []
    for batch_size in BATCH_SIZES:
        batches = [_batch(model, batch_size, chosen.length, rng) for _ in range(rounds)]
        num_tokens = sum(len(row) for batch in batches for row in batch)
        seconds = _time(model, backend, batches)
        whole = seconds[model.space.largest]
        for subnet, taken in seconds.items():
            fraction = _flops(model, subnet, batches) / _flops(model, model.space.largest, batches)
            total = sum(taken)
            rows.append(
                [
                    batch_size,
                    repr(subnet),
                    fraction,
                    statistics.median(a / b for a, b in zip(taken, whole, strict=True)),
                    1000 * statistics.median(taken),
                    round(num_tokens / total),
                ]
            )
    given = tuple(loaded(model.space).values())  # weights of other choices are not built
    subnets = [one for one in model.space if choices_of(model.space, one) == given]
    for subnet in subnets:
        backend.run(
            model.plan(subnet, {"text": (1,)}), {"text": Ragged.pack(_batch(model, 4, 16, rng))}
        )
    memory.append([f"all {len(subnets)} subnets have run", report.resident_mb()])
    report.show("Memory of one loaded copy", ["", "MB"], memory)
    columns = ["batch", "subnet", "FLOPs", "time", "p50 ms", "tokens/s"]
    report.show("FLOPs and time as fractions of the whole model's", columns, rows)
    report.finish({"text": [dict(zip(columns, row, strict=True)) for row in rows]}, chosen.json)


def _shaped_like_minilm() -> Exits:
    encoder = TransformerConfig(
        vocab_size=30_000, hidden=384, layers=6, heads=12, kv_heads=12, head_dim=32, ffn=1536
    )
    config = ExitsConfig(
        encoder=encoder,
        text=TextConfig(max_length=256),
        tasks={"similarity": "spearman"},
        depths=(1, 2, 3, 4, 5, 6),
        dims=(64, 384),
        heads=(0.5, 1.0),
        ffn=(0.25, 0.5, 1.0),
    )
    return Exits("minilm-shaped", config).eval().requires_grad_(False)


def _subnets(model: Exits) -> list[Subnet]:
    """Return every depth at full width, and the narrowest widths at full depth."""
    largest = model.space.largest
    found = [largest | {"depth": depth} for depth in reversed(model.config.depths)]
    for axis in ("ffn", "heads"):
        found += [largest | {axis: value} for value in getattr(model.config, axis)[:-1]]
    narrow = {"heads": model.config.heads[0], "ffn": model.config.ffn[0]}
    return [model.space.check(subnet) for subnet in (*found, largest | narrow)]


def _batch(model: Exits, batch_size: int, length: int | None, rng: Random) -> list[Tensor]:
    lengths = [length or _length(rng) for _ in range(batch_size)]
    vocabulary = model.config.encoder.vocab_size
    return [torch.tensor([rng.randrange(vocabulary) for _ in range(n)]) for n in lengths]


def _length(rng: Random) -> int:
    return min(_LONGEST, max(_SHORTEST, round(rng.lognormvariate(_MEAN, _SPREAD))))


def _time(
    model: Exits, backend: TorchBackend, batches: list[list[Tensor]]
) -> dict[Subnet, list[float]]:
    """Return seconds per batch of every subnet; the subnets take turns on each batch."""
    plans: dict[Subnet, Plan] = {
        s: model.plan(s, {"text": (1,)}) for s in dict.fromkeys(_subnets(model))
    }
    seconds: dict[Subnet, list[float]] = {subnet: [] for subnet in plans}
    for number, batch in enumerate([batches[0], *batches]):
        tokens = Ragged.pack(batch)
        for subnet, plan in plans.items():
            started = time.perf_counter()
            backend.run(plan, {"text": tokens})  # gives back tensors on the CPU: it has ended
            taken = time.perf_counter() - started
            if number:  # the first round warms up
                seconds[subnet].append(taken)
    return seconds


def _flops(model: Exits, subnet: Subnet, batches: list[list[Tensor]]) -> int:
    lengths = [len(row) for batch in batches for row in batch]
    cost = {n: plan_cost(model.plan(subnet, {"text": (n,)})).flops for n in set(lengths)}
    return sum(cost[n] for n in lengths)


if __name__ == "__main__":
    main()
