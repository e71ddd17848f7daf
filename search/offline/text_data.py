"""What `rheostat train text` can train on: data sets put together, and what they are judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.tasks import Metric
from models.train import texts
from models.train.texts import ScoredPair
from search.quality.embeddings import Evaluation, RankingQuality, SimilarityQuality

TextPairs = Sequence[ScoredPair] | Sequence[tuple[str, str]]

_TABLE_QUERIES = 1000  # standard error of a mean reciprocal rank about 0.012


@dataclass(frozen=True)
class TextData:
    """What an encoder is trained, measured and reported on.

    Attributes:
        task: Name of the task that the encoder will answer.
        metric: Of the task.
        free: Texts that the encoder, as it comes, embeds as a teacher.
        pairs: Rated pairs, or pairs that belong together.
        share: Of the training steps, for the pairs; the rest are on the free texts.
        validation: What the table is measured on.
        test: What is only reported.
        removed: Number of training texts left out because an evaluation split has them.
        licences: For the card: what the texts are and under which licences, in Markdown.
        own_words: Whether the vocabulary shrinks to the tokens of the training texts; rarer words
            are then spelled with smaller pieces.
    """

    task: str
    metric: Metric
    free: Sequence[str]
    pairs: TextPairs
    share: float
    validation: Evaluation
    test: Evaluation
    removed: int
    licences: str
    own_words: bool = False


def general(root: Path) -> TextData:
    """Similarity of sentences: STS-Benchmark's ratings, and free texts of several kinds.

    Raises:
        FileNotFoundError: If a data set is not there.
    """
    validation, test = texts.stsb(root, "dev"), texts.stsb(root, "test")
    known = {texts.normal(text) for pair in (*validation, *test) for text in pair[:2]}
    free = dict.fromkeys(text for part in texts.free_texts(root).values() for text in part)
    clean = [text for text in free if text and texts.normal(text) not in known]
    rated = [
        pair
        for pair in texts.stsb(root, "train")
        if not {texts.normal(pair.first), texts.normal(pair.second)} & known
    ]
    return TextData(
        task="similarity",
        metric="spearman",
        free=clean,
        pairs=rated,
        share=0.2,
        validation=SimilarityQuality(validation),
        test=SimilarityQuality(test),
        removed=len(free) - len(clean),
        licences=(
            "train splits of CLINC150, CC BY 3.0; BANKING77, CC BY 4.0; SciFact's claims, CC BY "
            "4.0; STS-Benchmark, CC BY-SA 4.0; docstrings of BSD-licensed Python packages"
        ),
    )


def pydoc_code(root: Path) -> TextData:
    """Search for Python functions by what they do: docstrings and functions of public packages.

    The splits are of different packages. Training pairs of which either half also stands in dev or
    test, letters and digits alone, are left out.

    Raises:
        FileNotFoundError: If the data set is not there.
    """
    pairs = texts.pydoc_code(root, "train")
    validation, test = texts.pydoc_code(root, "dev"), texts.pydoc_code(root, "test")
    known = {texts.normal(text) for pair in (*validation, *test) for text in pair}
    clean = [p for p in pairs if not {texts.normal(p[0]), texts.normal(p[1])} & known]
    chosen = validation[:: max(1, len(validation) // _TABLE_QUERIES)][:_TABLE_QUERIES]
    return TextData(
        task="code-search",
        metric="mrr@10",
        free=[text for pair in clean[::4] for text in pair],
        pairs=clean,
        share=1.0,
        validation=RankingQuality(texts.as_collection(chosen), "mrr@10"),
        test=RankingQuality(texts.as_collection(test), "mrr@10"),
        removed=len(pairs) - len(clean),
        licences=(
            "docstrings and functions of Django, NumPy, pandas, SciPy and SymPy, each BSD 3-Clause "
            "(parts of NumPy 0BSD, MIT, Zlib, CC0); dev is statsmodels, test scikit-learn"
        ),
        own_words=True,
    )


DATA: Mapping[str, Callable[[Path], TextData]] = {"general": general, "pydoc-code": pydoc_code}
