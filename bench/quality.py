"""What text encoders are worth at every exit and dimension, on splits that chose nothing.

Each argument, by default the shipped encoder, is a checkpoint of the family exits, or a public
folder (sentence-transformers or Hugging Face), whose exits are then as training left them: the
control. Tables show all heads and units by depth and dimensions, and fewer heads and units at full
depth. With --quick, 200 pairs, or 100 queries among their own documents, and two sets by default.

SICK may not be used commercially: it is only reported on. Pairs of STS 2012-2015 of which both
texts stand in STS-Benchmark's train or dev split are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import report
from models import checkpoint, formats
from models.backends.torch import TorchBackend
from models.checkpoint import MANIFEST
from models.families.exits import Exits, ExitsConfig
from models.space import Subnet
from models.train import texts
from models.train.texts import Retrieval, ScoredPair
from search.quality.embeddings import (
    Evaluation,
    Measured,
    RankingQuality,
    SimilarityQuality,
    scores_by,
)
from server.settings import data_folder

_QUICK = 200  # pairs, or queries with the documents that answer them
_DIMS = (32, 64, 128, 256)

Reader = Callable[[Path], Sequence[ScoredPair] | Retrieval]


def _sts_years(root: Path) -> Sequence[ScoredPair]:
    known = [t for split in ("train", "dev") for pair in texts.stsb(root, split) for t in pair[:2]]
    return texts.sts_years(root, known)


SETS: dict[str, tuple[Reader, tuple[str, ...]]] = {
    "stsb": (lambda root: texts.stsb(root, "test"), ("spearman",)),
    "sick": (texts.sick, ("spearman",)),
    "sts12-15": (_sts_years, ("spearman",)),
    "trecqa": (lambda root: texts.trecqa(root, "test"), ("map",)),
    "scifact": (lambda root: texts.scifact(root, "dev"), ("ndcg@10",)),
    "pydoc-code": (
        lambda root: texts.as_collection(texts.pydoc_code(root, "test")),
        ("mrr@10", "recall@1"),
    ),
    "cosqa": (lambda root: texts.cosqa(root, "test"), ("mrr@10", "recall@1")),
}
_QUICK_SETS = "stsb,trecqa"
_DEFAULT = "stsb,sick,sts12-15,trecqa,scifact"


def main() -> None:
    """Measure and print."""
    options = report.parser(__doc__)
    options.add_argument("models", nargs="*", type=Path, metavar="DIR")
    options.add_argument("--sets", help=f"of {','.join(SETS)}; default {_DEFAULT}")
    options.add_argument("--full-only", action="store_true", help="no fewer heads and units")
    chosen = options.parse_args()
    names = (chosen.sets or (_QUICK_SETS if chosen.quick else _DEFAULT)).split(",")
    if unknown := [name for name in names if name not in SETS]:
        sys.exit(f"--sets={chosen.sets}: {unknown[0]!r} must be one of {list(SETS)}")
    try:
        root = data_folder()
        data = {name: SETS[name][0](root) for name in names}
    except (ValueError, FileNotFoundError) as error:
        print(f"this benchmark needs the text data sets: {error}", file=sys.stderr)
        sys.exit(2)
    figures: dict[str, object] = {}
    for folder in chosen.models or [report.ZOO_TEXT]:
        model = _load(folder)
        backend = TorchBackend()
        backend.prepare(model)
        for name, found in data.items():
            part = _first(found) if chosen.quick else found
            metrics = SETS[name][1]
            evaluations = [_evaluation(part, metric) for metric in metrics]
            titles = [f"{folder.name}: {name}, {metric}" for metric in metrics]
            figures |= _measure(model, backend, evaluations, titles, chosen.full_only)
    report.finish(figures, chosen.json)


def _load(folder: Path) -> Exits:
    if (folder / MANIFEST).is_file():
        model: Exits = checkpoint.load(folder).model
        return model
    hidden = formats.read(folder, folder.name).config.dims[-1]
    return formats.read(folder, folder.name, dims=(*(d for d in _DIMS if d < hidden), hidden))


def _evaluation(data: Sequence[ScoredPair] | Retrieval, metric: str) -> Evaluation:
    return RankingQuality(data, metric) if isinstance(data, Retrieval) else SimilarityQuality(data)


def _first(data: Sequence[ScoredPair] | Retrieval) -> Sequence[ScoredPair] | Retrieval:
    """Return a small part: the first pairs, or the first queries among their own documents."""
    if not isinstance(data, Retrieval):
        return data[:_QUICK]
    queries = data.queries[: _QUICK // 2]
    sets = data.candidates or data.relevant
    wanted = sorted({i for own in sets[: len(queries)] for i in own})
    place = {old: new for new, old in enumerate(wanted)}
    candidates = data.candidates and data.candidates[: len(queries)]
    return Retrieval(
        queries,
        tuple(data.documents[i] for i in wanted),
        tuple(frozenset(place[i] for i in own) for own in data.relevant[: len(queries)]),
        candidates and tuple(tuple(place[i] for i in own) for own in candidates),
    )


def _measure(
    model: Exits,
    backend: TorchBackend,
    evaluations: Sequence[Evaluation],
    titles: Sequence[str],
    full_only: bool,
) -> dict[str, object]:
    """Score, print two tables per evaluation and return a record per subnet, by title."""
    space, config = model.space, model.config
    full = [s for s in space if s["heads"] == s["ffn"] == 1]
    narrow: list[Subnet] = []
    if not full_only:
        narrow = [
            space.check(space.largest | {"heads": heads, "ffn": ffn})
            for heads in config.heads
            for ffn in config.ffn
            if (heads, ffn) != (1, 1)
        ]
    subnets = [*full, *narrow]
    figures: dict[str, object] = {}
    every = scores_by(model, backend, evaluations, subnets)
    for title, measured in zip(titles, every, strict=True):
        found = dict(zip(subnets, measured, strict=True))
        _show(title, config, full, narrow, found)
        figures[title] = [{"subnet": dict(s), **found[s]._asdict()} for s in subnets]
    return figures


def _show(
    title: str,
    config: ExitsConfig,
    full: Sequence[Subnet],
    narrow: Sequence[Subnet],
    found: Mapping[Subnet, Measured],
) -> None:
    rows: list[list[object]] = []
    for depth in config.depths:
        of_depth = {s["dim"]: found[s].value for s in full if s["depth"] == depth}
        rows.append([depth, *(of_depth.get(dim, "-") for dim in config.dims)])
    n, stderr = found[full[-1]].n, found[full[-1]].stderr
    report.show(
        f"{title} (n {n}, standard error {stderr:.4f})", ["depth", *map(str, config.dims)], rows
    )
    if narrow:
        columns = [[s["heads"], s["ffn"], found[s].value] for s in narrow]
        report.show(f"{title}, all layers and dimensions", ["heads", "ffn", "score"], columns)


if __name__ == "__main__":
    main()
