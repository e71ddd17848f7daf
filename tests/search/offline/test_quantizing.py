from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import checkpoint
from models.train.texts import ScoredPair
from search.offline.quantizing import quantize
from search.quality.embeddings import SimilarityQuality
from search.quality.table import TABLE, Table
from tests.tiny_text import write_text_checkpoint

PAIRS = [ScoredPair(f"w{i} w{i + 1} w3", f"w{i + 2} w5 w{i}", i % 5) for i in range(12)]


def test_a_checkpoint_gains_measured_rows_of_8_bits_and_keeps_weights_and_rows(
    tmp_path: Path,
) -> None:
    folder = write_text_checkpoint(tmp_path)
    before = checkpoint.load(folder)
    old = Table.load(folder / TABLE, before.model.space, before.model.tasks)
    quantize(folder, SimilarityQuality(PAIRS))
    after = checkpoint.load(folder)
    name = "model.safetensors"
    assert after.manifest.files[name] == before.manifest.files[name]
    table = Table.load(folder / TABLE, after.model.space, after.model.tasks)
    count = len(old.rows)
    assert [row["bits"] for row in table.rows] == [8] * count + [32] * count
    cells, own = table.cells["similarity"], old.cells["similarity"]
    np.testing.assert_array_equal(cells.value[count:], own.value)
    assert (cells.n[:count] == len(PAIRS)).all()
    assert (cells.expected[:count] <= cells.expected[count:]).all()
    with pytest.raises(ValueError, match=r"bits=\[8, 32\] are on offer already"):
        quantize(folder, SimilarityQuality(PAIRS))
