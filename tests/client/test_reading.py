from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from rheostat.reading import MismatchError, from_json


@dataclass(frozen=True)
class Leaf:
    kind: Literal["leaf"]
    size: float


@dataclass(frozen=True)
class Twig:
    kind: Literal["twig"]
    leaves: list[Leaf]


@dataclass(frozen=True)
class Tree:
    name: str
    parts: list[Leaf | Twig]
    marks: dict[str, int | float | str]
    is_old: bool
    owner: str | None
    height: int = 3


LEAF = {"kind": "leaf", "size": 2}
TREE = {
    "name": "oak",
    "parts": [LEAF, {"kind": "twig", "leaves": [LEAF]}],
    "marks": {"a": 1, "b": 1.5, "c": "x"},
    "is_old": True,
    "owner": None,
}


def read(value: object) -> Tree:
    return from_json(Tree, json.dumps(value).encode())


def test_json_becomes_dataclasses() -> None:
    leaf = Leaf("leaf", 2.0)
    expected = Tree("oak", [leaf, Twig("twig", [leaf])], {"a": 1, "b": 1.5, "c": "x"}, True, None)
    found = read(TREE)
    assert found == expected
    assert [type(mark) for mark in found.marks.values()] == [int, float, str]
    assert isinstance(found.parts[0], Leaf)
    assert isinstance(found.parts[0].size, float)


def test_what_a_newer_server_says_beside_is_left_out() -> None:
    assert read({**TREE, "height": 9, "more": {"x": 1}}).height == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 7}, "name is 7, not a text"),
        ({"is_old": 1}, "is_old is 1, not a boolean"),
        ({"height": True}, "height is true, not an integer"),
        ({"height": 1.5}, "height is 1.5, not an integer"),
        ({"owner": 1}, "owner is 1, not a text or null"),
        ({"marks": {"a": None}}, "marks.a is null, not an integer or a number or a text"),
        ({"marks": []}, "marks is [], not an object"),
        ({"parts": {}}, "parts is {}, not a list"),
        (
            {"parts": [LEAF, {"kind": "twig", "leaves": [{"kind": "leaf", "size": "big"}]}]},
            'parts[1].leaves[0].size is "big", not a number',
        ),
        ({"name": "x" * 80, "height": ["y" * 80]}, f'height is ["{"y" * 58}..., not an integer'),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MismatchError) as caught:
        read({**TREE, **change})
    assert str(caught.value) == said


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(MismatchError, match=r"parts\[0\] is .*, not an object with 'size'"):
        read({**TREE, "parts": [{"kind": "leaf"}]})
    with pytest.raises(MismatchError, match="the answer is null, not an object"):
        read(None)
