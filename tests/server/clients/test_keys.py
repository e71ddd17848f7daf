from __future__ import annotations

import pytest

from server.clients.keys import Scope, id_of, new_key


def test_a_key_matches_itself_alone_and_its_record_does_not_hold_it() -> None:
    text, key = new_key({Scope.INFER}, "shop", "web", 1.0, 2.0)
    other, _ = new_key({Scope.INFER}, "shop", "web", 1.0, 2.0)
    assert key.matches(text)
    assert not key.matches(other)
    assert not key.matches(text[:-1] + ("a" if text[-1] != "a" else "b"))
    assert text.rpartition("-")[2] not in repr(key)
    assert (key.client, key.label, key.created, key.expires) == ("shop", "web", 1.0, 2.0)


def test_the_id_is_in_the_key() -> None:
    text, key = new_key({Scope.INFER}, None, "", 0.0, None)
    assert id_of(text) == key.id


@pytest.mark.parametrize("text", ["", "none", "sk-abc", "rh-12-34", "rh-0123456789abcdef-é"])
def test_what_is_no_key_of_ours_has_no_id(text: str) -> None:
    assert id_of(text) is None
