"""`rheostat adapt`: a trunk with its table and LoRA folders in, one checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import checkpoint
from models.families.exits import Exits
from models.inputs.text import TOKENIZER
from search.offline.adapting import adapt
from search.quality.embeddings import Measured, table_of
from search.quality.table import TABLE, Table
from tests.tiny_adapted import write_lora_folder
from tests.tiny_text import exits_config, randomise, write_tokenizer


def trunk_in(folder: Path, **fields: Any) -> Exits:
    write_tokenizer(folder)
    own = {"heads": (1.0,), "ffn": (1.0,), "depths": (2, 4), "dims": (16,)} | fields
    model = Exits("trunk", exits_config("post", **own))
    randomise(model)
    subnets = list(model.space)
    worth = [Measured(0.5 + 0.1 * int(one["depth"]), 50, 0.01) for one in subnets]
    table_of(model, subnets, {"similarity": worth}).save(folder / TABLE, model.space)
    checkpoint.save(folder, model, "exits", torch.float32, [TOKENIZER, TABLE])
    return model


def test_scores_with_adapters_are_predicted_and_less_for_less_rank(tmp_path: Path) -> None:
    trunk = trunk_in(tmp_path / "trunk", bits=(8, 32))
    lora = write_lora_folder(tmp_path / "lora", trunk, 0)
    adapt(tmp_path / "trunk", {"legal": lora}, tmp_path / "out", "made")
    model = checkpoint.load(tmp_path / "out").model
    assert model.config.ranks == (1, 2, 4)
    assert "bits" not in [axis.name for axis in model.space.axes]
    table = Table.load(tmp_path / "out" / TABLE, model.space, model.tasks)
    cells, own = table.cells["similarity"], {row: r for r, row in enumerate(table.rows)}
    whole = [
        cells.value[own[model.space.largest | {"inputs": "text+adapter", "rank": rank}], 0]
        for rank in model.config.ranks
    ]
    assert whole == sorted(whole)
    assert whole[-1] == pytest.approx(0.9)
    assert not cells.measured[-1].any()
    assert (cells.n[cells.measured] == 50).all()
    assert np.isfinite(cells.value).all()


def test_heads_in_an_order_of_their_own_are_refused(tmp_path: Path) -> None:
    trunk = trunk_in(tmp_path / "trunk", heads=(0.5, 1.0))
    lora = write_lora_folder(tmp_path / "lora", trunk, 0)
    with pytest.raises(ValueError, match=r"heads=\[0.5, 1.0\]: heads and units are in an order"):
        adapt(tmp_path / "trunk", {"legal": lora}, tmp_path / "out", "made")


def test_more_rank_than_there_is_is_refused(tmp_path: Path) -> None:
    trunk = trunk_in(tmp_path / "trunk")
    lora = write_lora_folder(tmp_path / "lora", trunk, 0)
    with pytest.raises(ValueError, match="the adapters have 4 at most"):
        adapt(tmp_path / "trunk", {"legal": lora}, tmp_path / "out", "made", (2, 8))
