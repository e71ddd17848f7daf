from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.inputs import Given
from models.nn.ragged import Layout, Ragged
from server.engine.process.wire import (
    Frames,
    PlanRecipe,
    bare,
    dressed,
    frame,
    packed_recipe,
    unpacked_recipe,
)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=5), st.integers(1, 64))
def test_messages_arrive_whole_however_the_stream_is_cut(sizes: list[int], step: int) -> None:
    messages = [("said", bytes(size), [size]) for size in sizes]
    stream = b"".join(map(frame, messages))
    frames, found = Frames(), list[object]()
    for start in range(0, len(stream), step):
        found += frames.feed(stream[start : start + step])
    assert found == messages


def _sent(value: object) -> object:
    ((_, found),) = Frames().feed(frame(("said", value)))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
def test_tensors_arrive_with_type_shape_and_values(dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    for tensor in (whole, whole[1], whole[:, 2], whole[:0]):
        found = _sent(tensor)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == dtype
        assert torch.equal(found, tensor)


def test_values_of_one_layout_have_one_layout_on_the_other_side() -> None:
    layout = Layout([3], torch.device("cpu"), origin="query")
    first, second = (Ragged(torch.rand(3, 2), layout) for _ in range(2))
    found = _sent({b"a": first, b"b": second})
    assert isinstance(found, dict)
    assert found[b"a"].layout is found[b"b"].layout
    assert found[b"a"].layout.lengths == (3,)
    assert found[b"a"].layout.origin == "query"
    assert torch.equal(found[b"b"].values, second.values)


def test_items_and_recipes_come_back_as_they_were() -> None:
    item = {"text": Given(torch.tensor([1, 2, 3]), b"digest", 3)}
    found = dressed(bare(item))
    assert found["text"] == item["text"]
    recipe = PlanRecipe(3, (("depth", 2),), ("similarity",), False, frozenset({b"x"}), frozenset())
    assert unpacked_recipe(packed_recipe(recipe)) == recipe
