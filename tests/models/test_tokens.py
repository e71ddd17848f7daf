"""What fewer tokens promise beyond the kit: how rows are summarised, and what that costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.families.tokens import ALL
from models.nn.ragged import Layout, Ragged
from models.nn.selectors import Selectors, mean_weights
from tests.conformance.fixtures.tokens import made, texts
from tests.tiny_text import exits_config

LENGTHS = (1, 2, 3, 7, 12)


def test_means_are_of_the_first_token_and_of_runs_of_all_others() -> None:
    layout = Layout(LENGTHS, torch.device("cpu"))
    for count in (2, 3, 5):
        weights = mean_weights(layout, count)
        assert weights.shape == (len(LENGTHS), count, max(LENGTHS))
        torch.testing.assert_close(weights.sum(2), torch.ones(len(LENGTHS), count))
        for row, length in enumerate(LENGTHS):
            used = weights[row].sum(0) > 0
            assert used.tolist() == [place < length for place in range(max(LENGTHS))]
            assert weights[row, 0, 0] == 1
    runs = mean_weights(Layout((7,), torch.device("cpu")), 4)[0]
    expected = [[0, 0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0, 0.5, 0.5]]
    torch.testing.assert_close(runs[1:], torch.tensor(expected))


def test_a_selector_without_a_gate_is_a_mean_and_with_one_attends_to_its_own_row() -> None:
    torch.manual_seed(0)
    selectors = Selectors(4, 8)
    batch = Ragged.pack([torch.randn(length, 8) for length in LENGTHS])
    means = torch.bmm(mean_weights(batch.layout, 3), batch.layout.pad(batch.values))
    found = selectors(3, batch)
    torch.testing.assert_close(found.values, means.flatten(0, 1))
    assert found.layout.lengths == (3,) * len(LENGTHS)
    selectors.gates.data.fill_(1.0)
    alone = selectors(3, Ragged.pack([batch.values[3:6]]))
    torch.testing.assert_close(alone.values, selectors(3, batch).values[6:9])


def test_later_layers_cost_what_their_tokens_do(tmp_path: Path) -> None:
    model = texts(tmp_path)
    for length in (8, 30):
        costs = [
            model.plan(model.space.largest | {"tokens": count}, {"text": (length,)}).cost.macs
            for count in (2, 3, 5, ALL)
        ]
        assert costs == sorted(costs)
    few, every = (
        model.plan(model.space.largest | {"tokens": count}, {"text": (30,)}) for count in (2, ALL)
    )
    assert len(few.identities & every.identities) == 3  # the embedding and two layers


@pytest.mark.parametrize(
    ("after", "counts", "message"),
    [
        (0, (2,), "after=0"),
        (1, (1, 2), "counts="),
        (1, (), "counts="),
        (4, (2,), "must be below 4"),
    ],
)
def test_what_cannot_be_built_is_refused(after: int, counts: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made("exits", exits_config("post"), after, counts)


def test_layers_that_look_at_places_are_refused() -> None:
    with pytest.raises(ValueError, match="where tokens are"):
        made("exits", exits_config("gated"), 1, (2,))
