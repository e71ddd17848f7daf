from __future__ import annotations

import pytest
import torch

from models.nn.ragged import Layout, Ragged, Value, layouts_of, rows_of, tokens_of

CPU = torch.device("cpu")
LENGTHS = [(3, 1, 4), (2, 2), (5,)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_padding_is_undone(lengths: tuple[int, ...]) -> None:
    layout = Layout(lengths, CPU)
    values = torch.randn(sum(lengths), 2, 3)
    padded = layout.pad(values)
    assert padded.shape == (len(lengths), max(lengths), 2, 3)
    assert torch.equal(layout.unpad(padded), values)


def test_padding_is_zero_and_at_the_end() -> None:
    padded = Layout((1, 3), CPU).pad(torch.ones(4, 1))
    assert padded[..., 0].tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_are_reduced_one_by_one(lengths: tuple[int, ...]) -> None:
    rows = [torch.randn(n, 6) for n in lengths]
    packed = Ragged.pack(rows)
    layout, values = packed.layout, packed.values
    torch.testing.assert_close(layout.mean(values), torch.stack([r.mean(0) for r in rows]))
    assert torch.equal(layout.first(values), torch.stack([r[0] for r in rows]))
    assert torch.equal(layout.last(values), torch.stack([r[-1] for r in rows]))


def test_positions_start_anew_in_each_row() -> None:
    layout = Layout((2, 3), CPU)
    assert layout.positions.tolist() == [0, 1, 0, 1, 2]
    assert layout.rows.tolist() == [0, 0, 1, 1, 1]


def test_rows_of_one_length_need_no_mask() -> None:
    layout = Layout((4, 4), CPU)
    assert layout.mask() is None
    assert layout.mask(window=3) is None
    assert layout.mask(window=2) is not None


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_mask_lets_a_query_see_what_it_should(
    lengths: tuple[int, ...], window: int | None, causal: bool
) -> None:
    layout = Layout(lengths, CPU)
    mask = layout.mask(causal, window)
    size = (len(lengths), 1, layout.longest, layout.longest)
    seen = torch.ones(size, dtype=torch.bool) if mask is None else mask.broadcast_to(size)
    for row, length in enumerate(lengths):
        for query in range(length):
            for key in range(layout.longest):
                near = window is None or abs(query - key) <= window
                expected = key < length and near and (key <= query or not causal)
                assert seen[row, 0, query, key] == expected
    assert seen.any(-1).all(), "a query without any key gives NaN, even if it is padding"


def test_rows_can_be_selected_and_joined() -> None:
    rows = [torch.randn(n, 2) for n in (3, 1, 2)]
    packed = Ragged.pack(rows)
    chosen = packed.select([2, 0])
    assert chosen.layout.lengths == (2, 3)
    assert torch.equal(chosen.values, torch.cat((rows[2], rows[0])))
    joined = Ragged.join([packed.select([i]) for i in range(3)])
    assert joined.layout.lengths == packed.layout.lengths
    assert torch.equal(joined.values, packed.values)
    assert len(packed) == 3


def test_moving_to_the_same_device_copies_nothing() -> None:
    packed = Ragged.pack([torch.ones(2, 1)])
    assert packed.to(CPU) is packed
    moved = packed.to(torch.device("meta"))
    assert moved.values.is_meta
    assert moved.layout.lengths == (2,)


@pytest.mark.parametrize("lengths", [(), (2, 0)])
def test_empty_batches_and_rows_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="none of them empty"):
        Layout(lengths, CPU)


def test_blocks_are_the_runs_of_rows_of_one_length() -> None:
    with torch.no_grad():
        blocks = Layout((2, 2, 3, 2), CPU).blocks
    assert [(part.start, part.stop) for part, _ in blocks] == [(0, 4), (4, 7), (7, 9)]
    assert [layout.lengths for _, layout in blocks] == [(2, 2), (3,), (2,)]
    assert all(layout.is_uniform for _, layout in blocks)


def test_where_gradients_are_taken_all_rows_are_one_block() -> None:
    layout = Layout((2, 3), CPU)
    assert layout.blocks == ((slice(None), layout),)


def test_the_cells_that_hold_a_token_are_told() -> None:
    assert Layout((1, 3), CPU).present.tolist() == [[True, False, False], [True, True, True]]


def test_layouts_and_their_tokens_count_once() -> None:
    x, y = (Ragged.pack([torch.zeros(n, 2) for n in lengths]) for lengths in ((3, 1), (2, 2)))
    values: list[Value] = [torch.zeros(2), y, x, y.replace(y.values + 1)]
    assert layouts_of(values) == [y.layout, x.layout]
    assert tokens_of(values) == 8
    assert tokens_of([torch.zeros(2)]) == 0


def test_parts_know_what_their_tokens_are_of() -> None:
    x = Ragged(torch.zeros(6, 2), Layout((3, 1, 2), CPU, origin="query"))
    parts = [x[0:2], x.select([2, 0]), *rows_of(x), Ragged.join([x[0:1], x[2:3]])]
    assert {part.layout.origin for part in parts if isinstance(part, Ragged)} == {"query"}
    other = Ragged.pack([torch.zeros(2, 2)])
    assert Ragged.join([x, other]).layout.origin not in ("query", other.layout.origin)
    assert other.layout.origin != Ragged.pack([torch.zeros(2, 2)]).layout.origin
