"""What `rheostat search` does: subnets measured where a search looks, and a checkpoint of them.

Every measurement is written down as it is made, so a search that was stopped goes on. The table
holds measured rows only: those that nothing measured beats, and the two ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import checkpoint
from models.checkpoint import MANIFEST
from models.families.convnet import Convnet
from models.files import reading, replacing
from models.space import Space
from models.train.statistics import estimated, only
from models.variants import exact_dtype, loaded
from search.offline.converting import read_pairs
from search.offline.errors import RecordError
from search.offline.front_chart import chart
from search.offline.genes import gene_space, genes_of, needs_statistics, subnet_of
from search.offline.linas import POPULATION, Genes, linas, not_beaten
from search.offline.linas import Measured as Found
from search.offline.measuring import (
    OBJECTIVES,
    Scores,
    Texts,
    digest,
    macs_of,
    measured,
    read_labelled,
)
from search.quality.embeddings import Measured, SimilarityQuality, table_of
from search.quality.table import TABLE

RECORD = "search.jsonl"
MEASURED = "measured"  # folder of the statistics of everything that was measured


@dataclass(frozen=True)
class SearchPlan:
    """What is searched for.

    Attributes:
        objectives: Of `OBJECTIVES`, quality first.
        evaluations: Subnets measured in all, the two ends among them.
        population: Measured in a round.
        seed: Of all that is drawn.
        minutes: After which no round begins; None for no limit.
    """

    objectives: tuple[str, ...] = ("quality", "macs")
    evaluations: int = 200
    population: int = POPULATION
    seed: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be searched for.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        known = [name for name in self.objectives if name in OBJECTIVES]
        if len(set(known)) != len(self.objectives) or len(known) < 2 or known[0] != "quality":
            raise ValueError(
                f"objectives={','.join(self.objectives)} must be quality, then one or more of "
                f"{', '.join(OBJECTIVES[1:])}, each once"
            )
        for name, least in (("evaluations", 2), ("population", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be {least} or more")


class Search:
    """A search over one model; what it measured so far, and the model with what that needs."""

    def __init__(
        self,
        model: Any,
        out: Path,
        plan: SearchPlan,
        score: Scores,
        batches: Sequence[Tensor] = (),
        data: str = "",
        report: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Take up what an earlier search wrote in the folder.

        Args:
            model: Searched over.
            out: Of the record; made if needed.
            plan: What is searched for.
            score: On the user's data.
            batches: Images that statistics are estimated on; for convolutional models only.
            data: Digest of what subnets are scored on.
            report: Called with the number of subnets that were measured.

        Raises:
            RecordError: If the record is of other objectives, another model or other data.
        """
        self.model, self.plan, self._score = model, plan, score
        self.out, self._batches, self.report = out, batches, report
        self.genes = gene_space(model)
        self.needs_statistics = needs_statistics(model)
        self.found: Found = {}
        self.scores: dict[Genes, Measured] = {}
        self._macs: dict[Genes, float] = {}
        out.mkdir(parents=True, exist_ok=True)
        self._resume(data)

    @cached_property
    def space(self) -> Space:
        """What is chosen from."""
        own: Space = self.model.choices if isinstance(self.model, Convnet) else self.model.space
        return own

    @property
    def ends(self) -> list[Genes]:
        """What every server runs first: the smallest subnets and the largest, which is the last."""
        smallest, largest = self.space.smallest, self.space.largest
        every = (smallest, smallest | loaded(self.space), largest)
        return list(dict.fromkeys(genes_of(self.space, end) for end in every))

    @property
    def exact(self) -> list[bool]:
        """Of each objective, whether it follows from the subnet alone."""
        return [name == "macs" for name in self.plan.objectives]

    def computed(self, genes: Genes) -> list[float]:
        """Return the multiply-accumulates, if they are an objective."""
        if "macs" not in self.plan.objectives:
            return []
        if genes not in self._macs:
            self._macs[genes] = macs_of(self._planner, subnet_of(self.space, genes))
        return [self._macs[genes]]

    def measured(self, configurations: Sequence[Genes]) -> list[tuple[float, ...]]:
        """Measure subnets and write down what was found."""
        subnets = [subnet_of(self.space, genes) for genes in configurations]
        if self.needs_statistics:
            self.model = estimated(self.model, subnets, self._batches)
        results = measured(self.model, subnets, self._score, self.plan.objectives)
        if self.needs_statistics:  # before the record, which speaks of what can be run
            checkpoint.save(self.out / MEASURED, self.model, "convnet", torch.float32)
        lines = []
        for genes, (score, values) in zip(configurations, results, strict=True):
            self.scores[genes] = score
            lines.append(json.dumps({"genes": genes, "score": score, "objectives": values}))
        with (self.out / RECORD).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self.report(len(lines))
        return [values for _, values in results]

    def run(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Measure the ends, then search.

        Raises:
            ValueError: If the largest subnet scores nothing on the data.
        """
        ends = self.ends
        if missing := [genes for genes in ends if genes not in self.found]:
            self.found.update(zip(missing, self.measured(missing), strict=True))
        if (score := self.scores[ends[-1]]).value <= 0:
            raise ValueError(
                f"{self.model.name} scores {score.value:.3g} with its largest subnet; a search "
                "needs data on which that is above 0"
            )
        rng = np.random.default_rng([self.plan.seed, len(self.found)])
        plan = self.plan
        linas(self.genes, self, rng, plan.evaluations, self.found, plan.population, is_over)

    def front(self) -> list[Genes]:
        """Return what nothing measured beats, and the two ends; the largest last."""
        rows = list(self.found)
        kept = {rows[i] for i in not_beaten(np.array(list(self.found.values())))}
        ends = self.ends
        macs = {genes: macs_of(self._planner, subnet_of(self.space, genes)) for genes in kept}
        inner = sorted(kept - set(ends), key=lambda genes: macs[genes])
        return [*ends[:-1], *inner, ends[-1]]

    @cached_property
    def _planner(self) -> Any:
        """A model that plans every subnet, whether or not there are statistics for it."""
        if not self.needs_statistics:
            return self.model
        with torch.device("meta"):
            return Convnet(
                self.model.name, replace(self.model.config, subnets=(), statistics="path")
            )

    def _resume(self, data: str) -> None:
        path = self.out / RECORD
        model = self.model
        head = {
            "model": digest(tensor.numpy() for tensor in model.state_dict().values()),
            "data": data,
            "objectives": list(self.plan.objectives),
            "axes": [[axis.name, list(axis.values)] for axis in self.space.axes],
        }
        if not path.is_file():
            with replacing(path) as part:
                part.write_text(json.dumps(head) + "\n")
            return
        _ = self._planner
        with reading(path, RecordError):
            text = path.read_text()
            if (whole := text[: text.rfind("\n") + 1]) != text:  # it was stopped in a line
                with replacing(path) as part:
                    part.write_text(whole)
            first, *lines = whole.splitlines()
            found = json.loads(first)
            if changed := sorted(name for name in head if found.get(name) != head[name]):
                raise RecordError(f"{path} is of another search: {', '.join(changed)} differ")
            if self.needs_statistics and (self.out / MEASURED / MANIFEST).is_file():
                model = checkpoint.load(self.out / MEASURED).model
            for line in lines:
                row = json.loads(line)
                genes = tuple(row["genes"])
                if self.needs_statistics and not model.space.has(subnet_of(self.space, genes)):
                    continue
                self.found[genes] = tuple(row["objectives"])
                self.scores[genes] = Measured(*row["score"])
        self.model = model


def prepared(model: Any, plan: SearchPlan, data: Path, out: Path, images: int) -> Search:
    """Return a search on a user's data.

    Args:
        model: Of images with one task, or of texts.
        plan: What is searched for.
        data: For images a CSV with the columns file and label, for texts a TSV of rated pairs.
        out: Of the record.
        images: That statistics are estimated on, at most half of them all; they score nothing.

    Raises:
        ValueError: If the data does not fit the model, or an earlier search's record does not.
    """
    (name, *others) = model.inputs
    kind = model.inputs[name].type.kind
    if others or kind not in ("image", "text"):
        raise ValueError(f"{model.name}: one input, an image or a text, is needed to search")
    if kind == "text":
        score = Texts(SimilarityQuality(read_pairs(data)))
        return Search(model, out, plan, score, data=digest([data.read_bytes()]))
    if len(model.tasks) != 1:
        raise ValueError(f"{model.name} has {len(model.tasks)} tasks; one is needed to search")
    (task,) = model.tasks.values()
    labelled = read_labelled(data, model.inputs[name].type, task.labels, plan.seed)
    own = digest(part.numpy() for part in (labelled.images, labelled.labels))
    batches: Sequence[Tensor] = ()
    if needs_statistics(model):
        known, labelled = labelled.split(min(images, len(labelled.labels) // 2))
        batches = [part for part, _ in known.batches()]
    return Search(model, out, plan, labelled, batches, f"{own}-{images}")


def write(search: Search, family: str, files: Sequence[str] = ()) -> list[Genes]:
    """Write the checkpoint of what was found, and a chart; returns its rows' genes.

    Args:
        search: That has run.
        family: Of the model.
        files: In the folder already, for the manifest to name.
    """
    out = search.out
    front = search.front()
    subnets = [subnet_of(search.space, genes) for genes in front]
    model = search.model
    if search.needs_statistics:
        model = only(model, subnets)
    task = next(iter(model.tasks))
    found = [search.scores[genes] for genes in front]
    table = table_of(model, subnets, dict.fromkeys(model.tasks, found))
    table.save(out / TABLE, model.space)
    checkpoint.save(out, model, family, exact_dtype(model), files=[TABLE, *files])
    for i, name in enumerate(search.plan.objectives[1:], 1):
        points = [(values[i], search.scores[genes].value) for genes, values in search.found.items()]
        best = [(search.found[genes][i], search.scores[genes].value) for genes in front]
        title = f"{model.name}: {task} over {name}, {len(points)} subnets measured"
        (out / f"front-{name}.svg").write_text(chart(title, name, task, points, best))
    return front
