"""What `rheostat static` does: a checkpoint gains a static exit that is fitted to a corpus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import checkpoint
from models.elasticize.sparse_rows import Floats
from models.elasticize.static_table import Bags, Fitted, fit, put, values_of
from models.families.exits import Exits
from models.families.pruned import Pruned
from models.nn.static import is_static
from models.safetensors_files import stored_type
from models.space import Subnet
from models.tasks import Task
from search.offline.corpus import Corpus
from search.offline.rewriting import check_table
from search.offline.static_check import Check, Embedder, Kept, held_out_check
from search.quality.errors import with_errors
from search.quality.table import TABLE, Cells, Table

RECORD = "static.json"
_CHUNK = 256  # texts embedded between looks at the clock
_EMBEDDING_PART = 0.6  # of the time
_FITTING_PART = 0.9
_LEAST_CHECKED = 3


def add_static(
    folder: Path,
    corpus: Corpus,
    seconds: float,
    about: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[str], None] = lambda _: None,
) -> Check:
    """Fit a static exit to a corpus and write it into a checkpoint.

    A static exit that is there is what the new one starts from. Scores of the new rows are
    predicted from the check and marked as not measured; `rheostat measure` measures them.

    Args:
        folder: Of the checkpoint of a text encoder; changed in place, the manifest last.
        corpus: Of `search.offline.corpus`.
        seconds: That it may take, about; it fits on the texts embedded until then.
        about: What the corpus is, for the record.
        clock: In seconds.
        report: Told what is being done, often.

    Raises:
        ValueError: If the checkpoint's family can have no static exit, it has no table, or
            the corpus leaves too few texts.
    """
    started = clock()
    loaded = checkpoint.load(folder)
    _check_enough(folder, loaded, corpus)
    old = loaded.model
    made = with_static(old)
    table = Table.load(folder / TABLE, old.space, old.tasks)
    embedder, whole = Embedder(old), old.space.largest
    report("embedding held-out texts")
    checked, documents = (
        embedder.vectors(embedder.batches(texts), whole) if texts else None
        for texts in (corpus.checked, corpus.documents)
    )
    assert checked is not None

    def is_left(part: float) -> bool:
        return clock() - started < part * seconds

    rows, vectors = _embedded(embedder, corpus.fit, whole, lambda: is_left(_EMBEDDING_PART), report)

    def on(done: int, of: int) -> bool:
        report(f"fitting, step {done} of {of}")
        return is_left(_FITTING_PART)

    base = base_of(made)
    bags = Bags(rows, base.config.encoder.vocab_size)
    put(fit(bags, vectors, token_vectors(base), _prior(old), on), made.static)
    report("checking")
    check, by_dim = held_out_check(made, static_rows(made)[-1], corpus, checked, documents)
    seconds = round(clock() - started, 1)
    check = replace(check, fitted_on=len(rows), of=len(corpus.fit), seconds=seconds)
    _write(folder, loaded, made, table, by_dim, {**about, **asdict(check)})
    return check


def _check_enough(folder: Path, loaded: checkpoint.Checkpoint, corpus: Corpus) -> None:
    check_table(loaded)
    if len(corpus.checked) < _LEAST_CHECKED or not corpus.fit:
        raise ValueError(
            f"{len(corpus.fit)} texts are left to fit on and {len(corpus.checked)} to check by; "
            f"needed are 1 and {_LEAST_CHECKED} or more"
        )


def _embedded(
    embedder: Embedder,
    texts: Sequence[str],
    whole: Subnet,
    is_left: Callable[[], bool],
    report: Callable[[str], None],
) -> tuple[list[torch.Tensor], Floats]:
    """Return the token ids and the vectors of as many texts as there is time for."""
    rows: list[torch.Tensor] = []
    vectors: list[Floats] = []
    for first in range(0, len(texts), _CHUNK):
        if first and not is_left():
            break
        report(f"embedding text {first} of {len(texts)}")
        batches = embedder.batches(texts[first : first + _CHUNK])
        rows += batches.token_ids
        vectors.append(embedder.vectors(batches, whole))
    return rows, np.concatenate(vectors)


def base_of(model: Any) -> Exits:
    """Return the text encoder of a model; ValueError if it has none that can have a static exit."""
    base = model.base if isinstance(model, Pruned) else model
    if not isinstance(base, Exits):
        raise ValueError(f"{model.name}: a {type(base).__name__} model can have no static exit")
    return base


def with_static(model: Any) -> Any:
    """Return a model with the same weights and a static exit, to be fitted where it is new."""
    base_of(model)
    config: Any = model.config
    if model.static is None and isinstance(model, Pruned):
        config = replace(config, keep=(0.0, *config.keep))
    elif model.static is None:
        pairs = config.pairs and (*((0, dim) for dim in config.dims), *config.pairs)
        config = replace(config, depths=(0, *config.depths), pairs=pairs)
    made: Any = type(model)(model.name, config)
    state = {name: tensor for name, tensor in model.state_dict().items()}
    own = {name: t for name, t in made.state_dict().items() if name.startswith("static.")}
    made.load_state_dict({**own, **state}, assign=True)
    for name in ("table", "weights"):  # not those of the model as it is
        setattr(made.static, name, torch.nn.Parameter(getattr(made.static, name).clone()))
    base_of(made).take(base_of(model).text, Path())
    return made.eval().requires_grad_(False)


def token_vectors(base: Exits) -> Floats:
    """Return what the first layer reads of each token, at a position in the middle."""
    embedding = base.embedding
    with torch.no_grad():
        x = embedding.token.weight
        if embedding.position is not None:
            x = x + embedding.position.weight[len(embedding.position.weight) // 16]
        found: Floats = embedding.norm(x).numpy(force=True)
    return found


def _prior(model: Any) -> Fitted | None:
    return None if model.static is None else values_of(model.static)


def static_rows(model: Any) -> list[Subnet]:
    """Return the subnets that are the static exit, the largest last."""
    shapes = model.inputs.plan_shapes()
    return [row for row in model.space.select({None}) if is_static(model.plan(row, shapes))]


def _write(
    folder: Path,
    loaded: checkpoint.Checkpoint,
    made: Any,
    table: Table,
    by_dim: Mapping[int, Kept],
    record: Mapping[str, Any],
) -> None:
    """Write weights, table, record and, last, the manifest."""
    rows = static_rows(made)
    old = [r for r, row in enumerate(table.rows) if row not in set(rows)]
    cells = {
        task: _joined(own, old, made.tasks[task], [by_dim[int(row["dim"])] for row in rows])
        for task, own in table.cells.items()
    }
    every = (*rows, *(table.rows[r] for r in old))
    joined = with_errors(Table(every, cells, table.given))
    dtype = stored_type(folder / checkpoint.WEIGHTS)
    joined.save(folder / TABLE, made.space)
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    files = dict.fromkeys((*loaded.manifest.files, RECORD))
    files.pop(checkpoint.WEIGHTS)
    checkpoint.save(folder, made, loaded.manifest.family, dtype, files, loaded.manifest)


def _joined(cells: Cells, old: Sequence[int], task: Task, kept: Sequence[Kept]) -> Cells:
    """Return the scores of the static exit, predicted, above those of the other rows."""
    whole, expected = float(cells.value[-1, -1]), float(cells.expected[-1, -1])
    if task.lower_is_better:
        raise ValueError(f"task {task.name!r}: metric={task.metric!r} is no score of vectors")
    shares = np.array([[one.share(task.metric)] for one in kept])
    errors = np.array([[one.stderr] for one in kept])
    predicted = replace(
        cells,
        value=np.clip(whole * shares, 0, 1),
        n=np.array([[one.n] for one in kept]),
        stderr=np.clip(whole * errors, 0, 1),
        measured=np.zeros_like(shares, dtype=np.bool_),
        smoothed=np.clip(expected * shares, 0, 1),
        agreement=None,
        error=None,
    )
    return predicted.above(cells.part(old, slice(None)))
