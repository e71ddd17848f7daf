"""The card and the pictures of a checkpoint that was made elastic, which its manifest covers."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from models import checkpoint
from search.offline import front_page
from search.offline.front_page import Point
from search.offline.material import Material
from search.offline.options import FoundCuts
from search.offline.training import CARD


def write(
    out: Path,
    template: str,
    name: str,
    source: Path,
    front: Sequence[Point],
    material: Material,
    found: FoundCuts,
    seconds: float,
    **more: object,
) -> None:
    """Write the card and the pictures, and let the manifest cover them.

    Args:
        out: Folder of the checkpoint.
        template: Of the card.
        name: Of the model.
        source: What it was made of.
        front: Its points, the largest last.
        material: What it was fitted to and measured on.
        found: By the run.
        seconds: The run took.
        more: What else the template takes.
    """
    n = front[-1].n
    text = (
        f"{material.metric} on {n} held-out examples that chose nothing. What is left out is "
        f"ranked by {found.ranking}. {seconds:.0f} s on {torch.get_num_threads()} threads."
    )
    rankings = sorted(found.rankings.items(), key=lambda ranking: -ranking[1])
    rows = [f"| {ranking} | {score:.4f} |" for ranking, score in rankings]
    told = template.format(
        name=name,
        source=source.resolve().name,
        rows=front_page.markdown(front),
        metric=material.metric,
        n=n,
        sizes=", ".join(f"{part}: {size}" for part, size in material.sizes.items()),
        ranking=found.ranking,
        rankings="\n".join(rows) or f"| {found.ranking} | not compared |",
        trials=", ".join(f"{count} at {keep:g}" for keep, count in found.trials.items()),
        fitted_on=found.fitted_on,
        seconds=round(seconds),
        parts=", ".join(f"{part} {took:.0f} s" for part, took in found.seconds.items()),
        threads=torch.get_num_threads(),
        machine=platform.processor() or platform.machine(),
        torch=torch.__version__,
        picture=front_page.PICTURE,
        **more,
    )
    (out / CARD).write_text(told)
    front_page.write(out, f"{name}: what is kept", text, material.metric, front)
    for file in (CARD, front_page.PICTURE, front_page.PAGE):
        checkpoint.cover(out, file)
