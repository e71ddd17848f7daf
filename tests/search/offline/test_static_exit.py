"""A checkpoint gains a static exit: what it is worth, what stays, and what is served."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models import checkpoint
from models.backends.torch import TorchBackend
from models.inputs.text import TOKENIZER
from search.budget import Budget
from search.offline.corpus import Corpus, split
from search.offline.static_check import Embedder
from search.offline.static_exit import RECORD, add_static, static_rows
from search.quality.agreement import AgreementQuality
from search.quality.embeddings import Measured, scores, table_of
from search.quality.table import TABLE, Table
from server import catalog
from server.cli.adding_static import _told
from server.cli.main import cli
from tests.conformance.fixtures.pruned import tiny_pruned
from tests.search.offline.test_elasticizing import Clock
from tests.search.offline.test_laddering import write_member
from tests.tiny_text import write_text_checkpoint, write_tokenizer


def document(rng: Random) -> str:
    """Return three sentences of words that go together."""
    topic = rng.randrange(8)
    return " ".join(
        " ".join(f"w{(7 * topic + rng.randrange(9)) % 56}" for _ in range(rng.randint(5, 8))) + " ."
        for _ in range(3)
    )


@pytest.fixture(scope="module")
def documents() -> list[str]:
    rng = Random(0)
    return [document(rng) for _ in range(400)]


@pytest.fixture(scope="module")
def corpus(documents: list[str]) -> Corpus:
    return split(documents, [], 0)


def write_pruned(folder: Path, bits: tuple[int, ...] = (8, 32)) -> Path:
    write_tokenizer(folder)
    model = tiny_pruned(bits=bits)
    checkpoint.save(folder, model, "pruned", torch.float16, [TOKENIZER])
    model = checkpoint.load(folder).model
    subnets = list(model.space)
    worth = [Measured(0.5 + 0.4 * float(s["keep"]), 50, 0.01) for s in subnets]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.cover(folder, TABLE)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "exits": write_text_checkpoint,
    "pruned": write_pruned,
}


@pytest.mark.parametrize("family", WRITERS)
def test_a_static_exit_is_added_and_every_other_answer_stays(
    family: str, corpus: Corpus, tmp_path: Path
) -> None:
    folder = WRITERS[family](tmp_path / "model")
    before = checkpoint.load(folder)
    old = Table.load(folder / TABLE, before.model.space, before.model.tasks)
    check = add_static(folder, corpus, 60, {}, Clock(0.001))
    after = checkpoint.load(folder)
    assert after.manifest.vectors == before.manifest.vectors
    assert after.manifest.files[checkpoint.WEIGHTS] != before.manifest.files[checkpoint.WEIGHTS]
    state = after.model.state_dict()
    for name, tensor in before.model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=0, rtol=0)
    table = Table.load(folder / TABLE, after.model.space, after.model.tasks)
    rows = static_rows(after.model)
    assert table.rows == (*rows, *old.rows)
    cells = table.cells["similarity"]
    assert not cells.measured[: len(rows)].any()
    assert cells.measured[len(rows) :].all()
    assert check.fitted_on == len(corpus.fit)
    assert json.loads((folder / RECORD).read_text())["agreement"] == check.agreement
    assert RECORD in after.manifest.files
    served = catalog.load_one(folder)
    finder = served.finders.at()
    cheapest = finder.find(budget=Budget(macs=1 + 16 * 32))
    assert cheapest.subnet in rows
    assert 0 < cheapest.fraction < 0.05


def test_the_fit_is_nearer_to_the_whole_model_than_tokens_by_chance(
    corpus: Corpus, tmp_path: Path
) -> None:
    folder = write_text_checkpoint(tmp_path / "model")
    model = checkpoint.load(folder).model
    embedder = Embedder(model)
    whole = embedder.vectors(embedder.batches(corpus.checked), model.space.largest)
    quality = AgreementQuality(corpus.checked, whole.astype(np.float64))
    check = add_static(folder, corpus, 60, {}, Clock(0.001))
    made = checkpoint.load(folder).model
    row = static_rows(made)[-1:]
    (found,) = scores(made, TorchBackend(), quality, row)
    assert found.value == pytest.approx(check.agreement, abs=2e-3)
    with torch.no_grad():
        made.static.table.copy_(made.static.table[torch.randperm(len(made.static.table))])
    (control,) = scores(made, TorchBackend(), quality, row)
    assert found.value > control.value + 0.2
    assert check.found is not None
    assert check.kept == pytest.approx(check.found / (check.whole or 0))


def test_a_second_fit_starts_from_the_first_and_needs_few_texts(
    corpus: Corpus, tmp_path: Path
) -> None:
    few = replace(corpus, fit=corpus.fit[:20])
    alone, after = (write_text_checkpoint(tmp_path / name) for name in ("alone", "after"))
    by_few = add_static(alone, few, 60, {}, Clock(0.001))
    add_static(after, corpus, 60, {}, Clock(0.001))
    again = add_static(after, few, 60, {}, Clock(0.001))
    assert again.agreement > by_few.agreement + 0.02
    model = checkpoint.load(after).model
    table = Table.load(after / TABLE, model.space, model.tasks)
    assert len(table.rows) == len(set(table.rows))


def test_time_bounds_the_texts_that_are_fitted_on(corpus: Corpus, tmp_path: Path) -> None:
    folder = write_text_checkpoint(tmp_path / "model")
    told: list[str] = []
    check = add_static(folder, corpus, 4, {}, Clock(1.0), told.append)
    assert 0 < check.fitted_on < len(corpus.fit) == check.of
    assert "the other texts did not fit into --minutes" in _told(check)
    assert any(what.startswith("fitting, step") for what in told)


def test_the_command_fits_checks_and_says_what_it_found(
    documents: list[str], tmp_path: Path
) -> None:
    folder = write_text_checkpoint(tmp_path / "model")
    data = tmp_path / "corpus.jsonl"
    data.write_text("\n".join(json.dumps({"text": one}) for one in documents))
    out = tmp_path / "out"
    before = (folder / "model.safetensors").read_bytes()
    words = ["static", str(folder), "--data", str(data), "--out", str(out), "--minutes", "0.2"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "39 sentences that seek their documents among 399" in done.output
    assert (folder / "model.safetensors").read_bytes() == before
    assert checkpoint.load(out).model.static is not None
    again = CliRunner().invoke(cli, words)
    assert again.exit_code == 2
    assert f"--out={out} exists already" in again.output


def test_a_model_that_reads_no_text_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    folder = write_member(tmp_path / "image", 1)
    with pytest.raises(ValueError, match="a Slimmable model can have no static exit"):
        add_static(folder, corpus, 60, {}, Clock(0.001))
