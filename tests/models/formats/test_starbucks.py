from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.formats import FormatError, starbucks
from tests.models.formats.public import change_json, hidden_states, pool, write_folder
from tests.tiny_text import embed, token_rows

PAIRS = ((1, 2), (2, 4), (4, 16))


def test_each_pair_is_the_first_token_of_a_layer_cut_short(tmp_path: Path) -> None:
    public = write_folder(tmp_path, "bert")
    model = starbucks.read(tmp_path, "tiny", pairs=PAIRS)
    rows = token_rows()
    states = hidden_states(public, rows)
    assert [(subnet["depth"], subnet["dim"]) for subnet in model.space] == list(PAIRS)
    for depth, dim in PAIRS:
        expected = pool(states[depth], "cls", dim)
        torch.testing.assert_close(embed(model, rows, depth, dim), expected, atol=1e-5, rtol=0)


def test_pairs_of_another_size_and_other_encoders_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    with pytest.raises(FormatError, match=r"\(12, 768\)\]; allowed: pairs that end at \(4, 16\)"):
        starbucks.read(tmp_path, "tiny")
    change_json(tmp_path / "config.json", model_type="roberta")
    with pytest.raises(FormatError, match=r"model_type='roberta'; allowed: one of \['bert'\]"):
        starbucks.read(tmp_path, "tiny", pairs=PAIRS)
