"""What `rheostat train adapted` does around its recipe: an encoder in, three adapters out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch

from models import families
from models.backends.torch import TorchBackend
from models.export.merged import merged
from models.families.adapted import Adapted, AdaptedConfig
from models.inputs.text import TextInput
from models.space import Subnet
from models.tasks import Metric
from models.train import texts
from models.train.adapters import AdapterRecipe, train_adapters
from models.train.examples import Examples, Partners, Rated
from models.train.texts import Retrieval
from search.offline.training import RUN, training_log
from search.offline.wrapped_training import (
    around,
    plain,
    scores_told,
    write_trained,
)
from search.quality.embeddings import (
    Evaluation,
    Measured,
    RankingQuality,
    SimilarityQuality,
    scores,
    table_of,
)
from search.quality.table import Table

_PLACES = ("query", "value", "up", "down")
_MOST = 300  # queries of an evaluation


class AdapterLesson(NamedTuple):
    """What one adapter learns, and what says how well.

    Attributes:
        metric: Of the task of its name.
        pairs: To learn, perhaps rated.
        chosen: Development data, which the table is measured on.
        tested: Test data, which is only reported.
    """

    metric: Metric
    pairs: Sequence[tuple[str, str] | texts.ScoredPair]
    chosen: Evaluation
    tested: Evaluation


def lessons(root: Path, seed: int, most: int = _MOST) -> dict[str, AdapterLesson]:
    """Read what the adapters learn: similarity, intents of customers, and functions by docstrings.

    Args:
        root: Folder of the data sets.
        seed: Of which intents are partners.
        most: Queries of development data, and a fifth of its pairs.

    Raises:
        FileNotFoundError: If a data set is not there.
    """
    banking = texts.intents(root, "banking77", "train")
    code = {split: texts.pydoc_code(root, split) for split in ("train", "dev", "test")}
    return {
        "similarity": AdapterLesson(
            "spearman",
            texts.stsb(root, "train"),
            SimilarityQuality(texts.stsb(root, "dev")[: 5 * most]),
            SimilarityQuality(texts.stsb(root, "test")),
        ),
        "intents": AdapterLesson(
            "map",
            _partners(banking[::2], Random(seed)),
            RankingQuality(_alike(banking[1::2], most), "map"),
            RankingQuality(_alike(texts.intents(root, "banking77", "test"), _MOST), "map"),
        ),
        "code": AdapterLesson(
            "mrr@10",
            code["train"],
            *(
                RankingQuality(texts.as_collection(code[split][:queries]), "mrr@10")
                for split, queries in (("dev", most), ("test", _MOST))
            ),
        ),
    }


def _partners(labelled: Sequence[tuple[str, str]], rng: Random) -> list[tuple[str, str]]:
    by_label: dict[str, list[str]] = {}
    for text, label in labelled:
        by_label.setdefault(label, []).append(text)
    found = []
    for own in by_label.values():
        rng.shuffle(own)
        found += list(zip(own, [*own[1:], own[0]], strict=True))
    return found


def _alike(labelled: Sequence[tuple[str, str]], most: int) -> Retrieval:
    """Return texts that should find the others of their intent."""
    step = max(1, len(labelled) // (4 * most))
    some = labelled[::step]
    queries, documents = some[::4], [one for i, one in enumerate(some) if i % 4]
    kept = [
        (text, frozenset(i for i, (_, own) in enumerate(documents) if own == label))
        for text, label in queries
    ]
    kept = [one for one in kept if one[1]]
    return Retrieval(
        tuple(text for text, _ in kept),
        tuple(text for text, _ in documents),
        tuple(right for _, right in kept),
    )


def train_adapted(
    source: Path,
    root: Path,
    out: Path,
    name: str,
    recipe: AdapterRecipe,
    report: Callable[[str], None],
) -> dict[str, dict[str, Measured]]:
    """Train adapters on a public encoder and write a checkpoint with its table.

    Args:
        source: A folder that `models.formats.read` reads.
        root: Folder of the data sets.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        Of each adapter on its test data: ``trunk`` and, by rank, its own scores.

    Raises:
        FileNotFoundError: If a data set is not there.
        FormatError: If the folder cannot be read exactly.
        ValueError: If ``out`` holds a run with another recipe.
    """
    data = lessons(root, recipe.seed)
    model = untrained(source, name, {key: one.metric for key, one in data.items()}, recipe.rank)
    text = TextInput.load(replace(model.base.config.text, max_length=recipe.max_tokens), source)
    report("training")
    learned = {key: examples_of(one, text) for key, one in data.items()}
    train_adapters(model, learned, recipe, out / RUN)
    report("measuring")
    measured = {key: _measured(model, key, one.chosen) for key, one in data.items()}
    tested = {key: _measured(model, key, one.tested) for key, one in data.items()}
    told = {"test": scores_told(tested), "steps": training_log(out)}
    write_trained(model, "adapted", source, out, _table(model, measured), recipe, told)
    return tested


def untrained(source: Path, name: str, tasks: Mapping[str, Metric], rank: int) -> Adapted:
    """Return a public encoder with an adapter per task that adds nothing yet."""
    base = plain(source, name, tasks)
    ranks = tuple(sorted({max(1, rank // 4), max(1, rank // 2), rank}))
    config = AdaptedConfig("exits", families.as_json(base.config), tuple(tasks), ranks, _PLACES)  # type: ignore[arg-type]
    made = Adapted(name, config)
    around(made, base, source)
    return made


def examples_of(lesson: AdapterLesson, text: TextInput) -> Examples:
    """Return the pairs of a lesson as tokens; what is too long is cut at its end."""
    first, second = (
        [text.encode(str(pair[side]), truncate="right") for pair in lesson.pairs] for side in (0, 1)
    )
    ratings = [pair.score for pair in lesson.pairs if isinstance(pair, texts.ScoredPair)]
    return Rated(first, second, torch.tensor(ratings)) if ratings else Partners(first, second)


def _measured(model: Adapted, adapter: str, data: Evaluation) -> dict[str, Measured]:
    found = {}
    for key, one in (
        ("trunk", model.base),
        *((f"rank {rank}", merged(model, adapter, rank)) for rank in model.config.ranks),
    ):
        backend = TorchBackend()
        backend.prepare(one)
        (found[key],) = scores(one, backend, data, [one.space.largest])
    return found


def _table(model: Adapted, measured: Mapping[str, Mapping[str, Measured]]) -> Table:
    def of(subnet: Subnet, task: str) -> Measured:
        is_alone = not str(subnet["inputs"]).endswith("adapter")
        return measured[task]["trunk" if is_alone else f"rank {subnet['rank']}"]

    subnets = list(model.space)
    return table_of(model, subnets, {t: [of(s, t) for s in subnets] for t in model.tasks})
