"""What not padding is worth: three ways to run a batch of texts of different length.

*Padded*: every row is filled up to the longest, in all layers, and masked. *Attention pads*: linear
layers and norms see tokens only. *Unpadded*: attention neither, with one call for each length in
the batch; what the server does on the CPU. Batches are random, or sorted by length; ways take turns
on each batch, and the table shows medians over batches.
"""

from __future__ import annotations

import statistics
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import report
from bench.limit.cases import sentences
from models import checkpoint
from models.backends.torch import TorchBackend
from models.families.exits import Exits
from models.nn.ragged import Layout, Ragged

BATCH_SIZE = 32
WAYS = ("padded", "attention pads", "unpadded")
_TOLERANCE = 1e-4


class OneBlock(Layout):
    """A layout whose rows attend in one call, which pads."""

    @cached_property
    def blocks(self) -> tuple[tuple[slice, Layout], ...]:
        """All rows."""
        return ((slice(None), self),)


class PaddedLayout(OneBlock):
    """A layout that calls every cell of the padded batch a token, and masks those that are none."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        super().__init__([max(lengths)] * len(lengths), device)
        self._present = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    def _mask(self, causal: bool, window: int | None) -> Tensor | None:
        return self._present[:, None, None, :]

    def mean(self, values: Tensor) -> Tensor:
        """Average the tokens of each row."""
        kept = torch.where(self._present[..., None], self.pad(values), 0)
        return kept.sum(1) / self._present.sum(1, keepdim=True)


def main() -> None:
    """Time the three ways on the same batches."""
    options = report.parser(__doc__)
    options.add_argument("--model", type=Path, default=report.ZOO_TEXT, metavar="DIR")
    options.add_argument("--threads", type=int, metavar="N", help="default: torch decides")
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    model: Exits = checkpoint.load(chosen.model).model
    TorchBackend().prepare(model)
    num_batches = 8 if chosen.quick else 32
    texts, what = sentences(chosen.model, BATCH_SIZE * num_batches)
    rows = [model.text.encode(text, truncate="right") for text in texts]
    figures: list[dict[str, Any]] = []
    for order, ordered in (("random", rows), ("sorted", sorted(rows, key=len))):
        batches = [
            sorted(ordered[i : i + BATCH_SIZE], key=len) for i in range(0, len(rows), BATCH_SIZE)
        ]
        seconds = _time(model, batches)
        for way, taken in seconds.items():
            ratios = [a / b for a, b in zip(taken, seconds[WAYS[-1]], strict=True)]
            figures.append(
                {
                    "batches": order,
                    "way": way,
                    "texts/s": len(rows) / sum(taken),
                    "time over unpadded": statistics.median(ratios),
                }
            )
    tokens = sum(map(len, rows)) / len(rows)
    title = f"{model.name} whole, batches of {BATCH_SIZE}, {what}, {tokens:.1f} tokens on average"
    report.show(title, list(figures[0]), [list(row.values()) for row in figures])
    report.finish({"packing": figures}, chosen.json)


@torch.inference_mode()
def _time(model: Exits, batches: list[list[Tensor]]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number, batch in enumerate([batches[0], *batches]):
        found = {}
        for way in WAYS:
            started = time.perf_counter()
            found[way] = run(model, batch, way)
            if number:  # the first batch warms up
                seconds[way].append(time.perf_counter() - started)
        for way in WAYS:
            torch.testing.assert_close(found[way], found[WAYS[-1]], atol=_TOLERANCE, rtol=0)
    return seconds


def run(model: Exits, batch: list[Tensor], way: str) -> Tensor:
    """Return the whole model's vectors of texts, in order of length, in one of the three ways."""
    lengths = [len(row) for row in batch]
    device = batch[0].device
    if way == WAYS[0]:
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        tokens = Ragged(padded.flatten(), PaddedLayout(lengths, device))
    elif way == WAYS[1]:
        tokens = Ragged(torch.cat(batch), OneBlock(lengths, device))
    else:
        tokens = Ragged.pack(batch)
    groups, units = model.widths(model.space.largest)
    hidden = model.embedding(tokens)
    for layer in model.layers:
        hidden = layer(groups, units, hidden)
    pooled: Tensor = model.pool(model.config.depths[-1], model.config.dims[-1], hidden)
    return F.normalize(pooled, dim=1)


if __name__ == "__main__":
    main()
