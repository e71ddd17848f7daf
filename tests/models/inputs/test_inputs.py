"""Several named inputs of one model, some of which may be missing."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch

from models.inputs import Inputs, InvalidInputError, Item, Slot, num_tokens
from models.inputs.image import ImageInput
from models.inputs.tensor import TensorInput
from models.inputs.text import text_input
from models.space import Axis

IMAGE = ImageInput(4, 6, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SERIES = TensorInput((2,), max_length=100)
INPUTS = Inputs({"image": Slot(IMAGE), "query": Slot(SERIES), "notes": Slot(SERIES, False)})


def item(query: int, notes: int | None = None) -> Item:
    values = {"image": torch.zeros(IMAGE.shape), "query": torch.zeros(query, 2)}
    if notes is not None:
        values["notes"] = torch.ones(notes, 2)
    return INPUTS.item(values)


def test_the_order_is_the_models() -> None:
    assert list(INPUTS) == ["image", "query", "notes"]
    assert INPUTS.of_kind("tensor") == ["query", "notes"]
    assert INPUTS.only is None
    assert Inputs.of("image", IMAGE).only == "image"
    assert Inputs({"a": Slot(SERIES), "b": Slot(IMAGE, False)}).only == "a"


def test_a_request_that_knows_one_kind_means_the_first_input_of_it() -> None:
    assert INPUTS.name_for("tensor") == "query"
    assert INPUTS.name_for("text") == "image"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("image",), "input 'query' is required"),
        (("image", "query", "sound"), r"input 'sound' is not known; one of \['image', 'query'"),
    ],
)
def test_an_item_that_lacks_an_input_or_has_another_is_refused(
    names: Collection[str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        INPUTS.check(names)
    INPUTS.check(("image", "query"))
    INPUTS.check(INPUTS)


def test_sizes_are_those_of_what_is_there() -> None:
    both = item(3, 7)
    assert INPUTS.shapes(both) == {"image": (3, 4, 6), "query": (3, 2), "notes": (7, 2)}
    assert INPUTS.lengths(INPUTS.shapes(both)) == {"query": 3, "notes": 7}
    assert INPUTS.num_tokens(INPUTS.shapes(both)) == num_tokens(both) == 10
    assert num_tokens(item(3)) == 3


def test_no_item_exceeds_the_upper_shapes() -> None:
    upper = INPUTS.upper([item(3, 7), item(9), item(2, 8)])
    assert upper == {"image": (3, 4, 6), "query": (9, 2), "notes": (8, 2)}


def test_plans_without_an_item_are_for_a_length_or_the_greatest_and_for_some_inputs() -> None:
    assert INPUTS.plan_shapes() == {"image": (3, 4, 6), "query": (100, 2), "notes": (100, 2)}
    assert INPUTS.plan_shapes(5, ["image", "query"]) == {"image": (3, 4, 6), "query": (5, 2)}
    with pytest.raises(InvalidInputError, match="tokens=101"):
        INPUTS.plan_shapes(101)
    with pytest.raises(InvalidInputError, match="tokens=5"):
        Inputs.of("image", IMAGE).plan_shapes(5)


def test_a_text_is_refused_by_what_the_model_takes() -> None:
    with pytest.raises(InvalidInputError, match="takes images and numbers, not text"):
        text_input(INPUTS)


def test_items_share_a_batch_if_they_have_the_same_inputs_of_like_sizes() -> None:
    assert INPUTS.bucket(item(3, 7)) == INPUTS.bucket(item(60, 2))
    assert INPUTS.bucket(item(3, 7)) != INPUTS.bucket(item(3, 70))
    assert INPUTS.bucket(item(3, 7)) != INPUTS.bucket(item(3))
    lone = Inputs.of("query", SERIES)
    assert lone.bucket(lone.item({"query": torch.zeros(3, 2)})) == ("query", 6)


def test_contents_are_known_by_input_and_equal_ones_share_their_digest() -> None:
    one, other = item(3, 7), item(3, 8)
    assert one["query"].digest == other["query"].digest
    assert one["image"].digest == other["image"].digest
    assert one["notes"].digest != other["notes"].digest


def test_examples_and_the_longest_item_are_items() -> None:
    for found in (INPUTS.example(), INPUTS.example(5), INPUTS.longest()):
        INPUTS.check(found)
    assert INPUTS.lengths(INPUTS.shapes(INPUTS.example(5))) == {"query": 5, "notes": 5}
    assert INPUTS.shapes(INPUTS.longest()) == INPUTS.plan_shapes()
    assert INPUTS.example(names=["query"]).keys() == {"query"}


def test_items_of_the_same_inputs_are_put_together() -> None:
    batch = INPUTS.batch([item(3), item(2)])
    assert batch.keys() == {"image", "query"}
    assert all(len(value) == 2 for value in batch.values())


def test_what_is_there_fixes_the_axis_that_says_so() -> None:
    axes = (
        Axis("inputs", ("image+query", "image+query+notes"), kind="given"),
        Axis("width", (1, 2)),
    )
    assert INPUTS.given_choices(axes, ["query", "image"]) == {"inputs": "image+query"}
    assert INPUTS.given_choices(axes, reversed(list(INPUTS))) == {"inputs": "image+query+notes"}
    assert INPUTS.given_choices(axes[1:], ["image"]) == {}
    with pytest.raises(InvalidInputError, match="inputs 'image' do not go together; one of"):
        INPUTS.given_choices(axes, ["image"])


def test_a_signature_says_which_requests_may_mean_the_model() -> None:
    signature = INPUTS.signature
    assert signature.fits("image", None)
    assert not signature.fits("text", None)
    assert signature.fits(None, ["query", "image"])
    assert signature.fits("tensor", ["query", "image", "notes"])
    assert not signature.fits(None, ["image"])
    assert not signature.fits(None, ["image", "query", "sound"])


def test_where_none_is_required_an_item_still_has_one() -> None:
    with pytest.raises(ValueError, match=r"inputs=\[\]: at least one is needed"):
        Inputs({})
    some = Inputs({"a": Slot(SERIES, required=False), "b": Slot(IMAGE, required=False)})
    assert some.only is None
    some.check(["b"])
    with pytest.raises(InvalidInputError, match=r"an item has one input or more, of \['a', 'b'\]"):
        some.check([])
