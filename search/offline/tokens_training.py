"""What `rheostat train tokens` does around its recipe: an encoder in, fewer tokens out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import torch

from models import families
from models.backends.torch import TorchBackend
from models.families.tokens import FewerTokens, FewerTokensConfig
from models.inputs.text import TextInput
from models.train import texts
from models.train.examples import Distances
from models.train.selectors import SelectorRecipe, train_selectors
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
from search.quality.whole_agreement import whole_answers

TASKS = {"similarity": "spearman", "code": "mrr@10"}
AFTER, COUNTS = 2, (4, 8, 16)
_TEXTS = 4000  # that are distilled
_MOST = 300  # queries of an evaluation

Scores = dict[str, dict[str, Measured]]


def train_tokens(
    source: Path,
    root: Path,
    out: Path,
    name: str,
    recipe: SelectorRecipe,
    report: Callable[[str], None],
) -> tuple[Scores, Scores]:
    """Train selectors on a public encoder and write a checkpoint with its table.

    Args:
        source: A folder that `models.formats.read` reads.
        root: Folder of the data sets.
        out: Folder of the checkpoint. An interrupted run goes on when called again.
        name: What clients will ask for.
        recipe: Hyper-parameters.
        report: Told what is being done.

    Returns:
        By number of tokens, each task's score on test data: with means of neighbours, the
        control, and with what was learned.

    Raises:
        FileNotFoundError: If a data set is not there.
        FormatError: If the folder cannot be read exactly.
        ValueError: If ``out`` holds a run with another recipe.
    """
    model = untrained(source, name)
    report("embedding texts")
    known = distances(model, source, root, recipe)
    control = _measured(model, evaluations(root, "test"))
    report("training")
    train_selectors(model, known, recipe, out / RUN)
    report("measuring")
    chosen, tested = (_measured(model, evaluations(root, split)) for split in ("dev", "test"))
    subnets = list(model.space)
    cells = {task: [chosen[str(one["tokens"])][task] for one in subnets] for task in TASKS}
    test = {"means": scores_told(control), "learned": scores_told(tested)}
    told = {"test": test, "steps": training_log(out)}
    write_trained(model, "tokens", source, out, table_of(model, subnets, cells), recipe, told)
    return control, tested


def untrained(source: Path, name: str) -> FewerTokens:
    """Return a public encoder whose summaries are means of neighbours."""
    base = plain(source, name, TASKS)  # type: ignore[arg-type]  # they are metrics
    made = FewerTokens(
        name, FewerTokensConfig("exits", families.as_json(base.config), AFTER, COUNTS)
    )
    around(made, base, source)
    return made


def distances(model: FewerTokens, source: Path, root: Path, recipe: SelectorRecipe) -> Distances:
    """Return texts of train splits with the vectors that all tokens give."""
    every = [text for own in texts.free_texts(root).values() for text in own]
    some = Random(recipe.seed).sample(sorted(set(every)), _TEXTS)
    config = replace(model.base.config.text, max_length=recipe.max_tokens)
    text = TextInput.load(config, source)
    backend = TorchBackend()
    backend.prepare(model.base)
    vectors = whole_answers(model.base, backend, some)
    return Distances(
        [text.encode(one, truncate="right") for one in some], torch.from_numpy(vectors).float()
    )


def evaluations(root: Path, split: str) -> dict[str, Evaluation]:
    """Return what says how well each task does, on a split called dev or test."""
    pairs = texts.pydoc_code(root, split)[:_MOST]
    return {
        "similarity": SimilarityQuality(texts.stsb(root, split)),
        "code": RankingQuality(texts.as_collection(pairs), "mrr@10"),
    }


def _measured(model: FewerTokens, data: Mapping[str, Evaluation]) -> Scores:
    backend = TorchBackend()
    backend.prepare(model)
    subnets = list(model.space)
    found: Scores = {str(one["tokens"]): {} for one in subnets}
    for task, evaluation in data.items():
        for subnet, one in zip(subnets, scores(model, backend, evaluation, subnets), strict=True):
            found[str(subnet["tokens"])][task] = one
    return found
