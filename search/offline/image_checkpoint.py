"""What `rheostat elasticize` writes of a convolutional classifier: checkpoint, table, card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from models import checkpoint
from models.backends.torch import TorchBackend
from models.elasticize.allocation import Costs
from models.elasticize.channels import Group, Sizes, groups_of
from models.families.convnet import Convnet
from models.formats.image_classifiers import KEEP
from models.space import Subnet
from models.variants import exact_dtype
from search.offline import card
from search.offline.elastic_images import FoundChannels, ImageRun
from search.offline.front_page import Point
from search.offline.image_pace import whole_of_images
from search.offline.material import Reading
from search.offline.options import RunOptions
from search.offline.rewriting import with_config
from search.offline.whole import TABLE_PART
from search.quality.embeddings import Measured, scores, table_of
from search.quality.table import TABLE


def elasticize_images(
    base: Convnet,
    source: Path,
    out: Path,
    read: Reading,
    options: RunOptions,
    clock: Callable[[], float],
    report: Callable[[str], None],
) -> list[Point]:
    """Make a convolutional classifier elastic on a user's images and write a checkpoint.

    Args:
        base: As `models.formats.image_classifiers.read` gives it.
        source: Where it was read from, for the card.
        out: Folder of the checkpoint.
        read: What `search.offline.material.read_material` gives.
        options: See `RunOptions`.
        clock: In seconds.
        report: Told what is being done, often.

    Returns:
        The front, cheapest first.

    Raises:
        ValueError: If the images do not fit the model, or not even the fewest channels fit the
            smallest budget.
    """
    started = clock()
    report("answering held-out images")
    material = read(whole_of_images(base, options, clock))
    base = with_config(base, replace(base.config, metric=material.metric), source)
    seconds = (1 - TABLE_PART) * options.seconds - (clock() - started)
    left = replace(options, seconds=max(1.0, seconds))
    found = ImageRun(base, material, left, clock, report).run()
    report("measuring the table")
    model = found.model
    subnets = sorted(model.space, key=lambda subnet: float(subnet[KEEP]))
    measured = scores(model, TorchBackend(), material.report, subnets)
    if measured[-1].value <= 0:
        raise ValueError(
            f"{source}: the whole network is right on none of {measured[-1].n} images; do the "
            "labels have the order of its classes?"
        )
    out.mkdir(parents=True, exist_ok=True)
    table_of(model, subnets, dict.fromkeys(model.tasks, measured)).save(out / TABLE, model.space)
    checkpoint.save(out, model, "convnet", exact_dtype(model), files=[TABLE])
    front = _front(base, found, subnets, measured)
    took = clock() - started
    card.write(out, _CARD, base.name, source, front, material, found, took)
    return front


def _front(
    base: Convnet, found: FoundChannels, subnets: Sequence[Subnet], measured: Sequence[Measured]
) -> list[Point]:
    """Return the points of subnets, the whole one last."""
    groups = groups_of(base)
    costs = Costs(base, groups)
    sizes = {**found.sizes, 1.0: tuple(group.size for group in groups)}
    whole, best = costs.of(sizes[1.0]), measured[-1].value
    return [
        Point(
            float(subnet[KEEP]),
            32,
            costs.of(sizes[float(subnet[KEEP])]) / whole,
            one.value,
            one.stderr,
            one.n,
            one.value / best if best else 0.0,
            kept_of(groups, sizes[float(subnet[KEEP])]),
        )
        for subnet, one in zip(subnets, measured, strict=True)
    ]


def kept_of(groups: Sequence[Group], sizes: Sizes) -> str:
    """Return what is kept of each group, for people."""
    return " ".join(f"{size}/{group.size}" for group, size in zip(groups, sizes, strict=True))


_CARD = """# {name}

{source} made elastic without training: in each block the channels that matter least on the user's
images are left out, and what reads the others is fitted to the whole network by ridge regression,
for each cut. Blocks that add to their input may be left out as a whole.

{metric} on {n} held-out images, which neither ranked, fitted nor chose anything:

{rows}

`keep` is the most of the network's multiply-accumulates that a cut may take, `MACs` what it takes.
`kept` is the share of the whole model's score. The last column is the channels that are left inside
each block; 0 leaves the block out.

![front]({picture})

- **Data**: {sizes}. The three parts share no image.
- **Ranking**: {ranking}. Score on the images that choose at one cut, by ranking:

| ranking | score |
|---|---|
{rankings}

- **Search**: cuts measured: {trials}.
- **Fit**: on {fitted_on} images. Time: {seconds} s on {threads} threads ({parts});
  {machine}, torch {torch}.
"""
