from __future__ import annotations

import pytest

from bench.text_corpus import filtered, is_usable, of_dictionary, of_manual, of_markup, of_wordnet
from bench.text_overlap import Overlap
from models.train.texts import normal

HELD_OUT = "One two three four five six seven eight nine ten. Short one."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one TWO three, four five six seven eight nine ten!", "equal"),  # one of its sentences
        ("short one", "equal"),
        # Two of its three runs of eight words; then one of them.
        ("zero one two three four five six seven eight nine and so on", "shingles"),
        ("zero one two three four five six seven eight and so on", None),
        ("nine ten short", None),
    ],
)
def test_a_text_overlaps_by_whole_sentences_or_half_of_their_shingles(
    text: str, found: str | None
) -> None:
    assert Overlap([HELD_OUT]).of(normal(text)) == found


def test_texts_are_kept_once_and_no_more_than_asked_of_each_source() -> None:
    many = [
        f"{word} begins a sentence of many words."
        for word in ["one", "two", "six", "ten", "a", "b", "c", "d"]
    ]
    parts = {"first": [many[0], many[0].upper(), "too short"], "second": many}
    kept, rows = filtered(parts, Overlap([many[1]]), 5)
    assert len(kept) == len(set(kept)) == sum(int(str(row[2])) for row in rows)
    assert many[0] in kept
    assert many[1] not in kept
    (_, found, taken, equal, shingles) = rows[1]
    assert found == 7  # all but the one that the first source had
    assert int(str(taken)) + int(str(equal)) + int(str(shingles)) == 5


def test_what_is_no_sentence_is_not_usable() -> None:
    assert is_usable("This is a sentence of some words.")
    assert not is_usable("A word or")
    assert not is_usable("0x00 0x01 0x02 0x03 | 0x04 0x05 0x06 0x07")
    assert not is_usable("word " * 100)


def test_readers_find_sentences() -> None:
    gloss = '00001740 03 n 01 some_thing 0 000 | what there is; "there is some of it"  '
    assert list(of_wordnet(f"  1 licence | text\n{gloss}")) == [
        "what there is",
        "there is some of it",
        "some thing: what there is",
    ]
    entry = "Word \\Word\\, n. [L. verbum]\n   1. What is\n      said. It is {short}. [1913]\n"
    assert "What is said." in list(of_dictionary(entry))
    assert "It is short." in [one.strip() for one in of_dictionary(entry)]
    page = "<p>One &amp; two. Three <b>four</b>.</p><pre>code here</pre><p>Five.</p>"
    assert [one for one in of_markup(page) if one] == ["One & two.", "Three four.", "Five."]
    manual = ".TH X 1\n.SH NAME\nx \\- does it. It\n.B does\nmore.\n"
    assert list(of_manual(manual))[-2:] == ["x - does it.", "It does more."]
