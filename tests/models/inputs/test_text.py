from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tokenizers import Tokenizer

from models.inputs import InvalidInputError
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig
from tests.tiny_text import write_tokenizer

CLS, SEP = 2, 3


def text_input(folder: Path, **fields: Any) -> TextInput:
    config = TextConfig(**{"max_length": 8, **fields})
    return TextInput.load(config, write_tokenizer(folder))


def words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


def test_text_becomes_ids_between_special_tokens(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    ids = model_input.encode("w0 w5 unheard")
    assert ids.dtype == torch.int64
    assert ids.tolist() == [CLS, 4, 9, 1, SEP]
    assert model_input.shape_of(ids) == (5,)


@pytest.mark.parametrize(
    ("side", "kept"), [("right", range(4, 10)), ("left", range(18, 24))], ids=["right", "left"]
)
def test_truncation_keeps_the_special_tokens(
    tmp_path: Path, side: Literal["left", "right"], kept: range
) -> None:
    ids = text_input(tmp_path).encode(words(20), truncate=side)
    assert ids.tolist() == [CLS, *kept, SEP]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("count", [1, 6, 7, 40])
def test_truncation_equals_that_of_transformers(
    tmp_path: Path, side: Literal["left", "right"], count: int
) -> None:
    transformers = pytest.importorskip("transformers")
    model_input = text_input(tmp_path)
    public = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / TOKENIZER), truncation_side=side
    )
    expected = public(words(count), truncation=True, max_length=8)["input_ids"]
    assert model_input.encode(words(count), truncate=side).tolist() == expected


def test_text_that_is_too_long_is_refused_with_both_figures(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    assert len(model_input.encode(words(6))) == 8
    with pytest.raises(InvalidInputError, match="has 9 tokens; at most 8 are allowed"):
        model_input.encode(words(7))


def test_a_request_may_allow_fewer_tokens_but_not_more(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    assert model_input.encode(words(9), truncate="right", max_tokens=4).tolist() == [CLS, 4, 5, SEP]
    assert len(model_input.encode(words(9), truncate="right", max_tokens=99)) == 8
    assert model_input.check_ids([4, 5, 6], truncate="left", max_tokens=3).tolist() == [4, 5, 6]
    with pytest.raises(InvalidInputError, match="has 5 tokens; at most 4 are allowed"):
        model_input.encode(words(3), max_tokens=4)
    with pytest.raises(InvalidInputError, match="2 tokens leave no room beside the 2 special ones"):
        model_input.encode("w1", max_tokens=2)


def test_tokens_know_their_place_in_a_text_of_any_length(tmp_path: Path) -> None:
    model_input = text_input(tmp_path, prompts={"query": "w0 {text}"})
    text = words(20)
    found = model_input.tokens(text)
    assert [token.is_special for token in found] == [True, *[False] * 20, True]
    assert (found[0].text, found[0].start, found[0].stop) == ("[CLS]", None, None)
    assert all(text[token.start : token.stop] == token.text for token in found[1:-1])
    assert [token.id for token in model_input.tokens("w5", "query", False)] == [4, 9]


def test_ids_become_text_again(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    assert model_input.text_of([CLS, 4, 9, SEP]) == "w0 w5"
    assert model_input.text_of([CLS, 4, SEP], skip_special_tokens=False) == "[CLS] w0 [SEP]"
    with pytest.raises(InvalidInputError, match=r"token id 60 is not in 0\.\.59"):
        model_input.text_of([60])


def test_empty_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="the text is empty"):
        text_input(tmp_path).encode("")


def test_text_without_tokens_is_refused_where_no_special_ones_are_added(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / TOKENIZER))
    tokenizer.post_processor = None
    model_input = TextInput(TextConfig(max_length=8), tokenizer)
    assert model_input.encode("w0").tolist() == [4]
    with pytest.raises(InvalidInputError, match="the text has no tokens"):
        model_input.encode("  ")


def test_a_prompt_goes_around_the_text(tmp_path: Path) -> None:
    prompts = {"query": "w1 {text} w2", "bare": "{text}"}
    model_input = text_input(tmp_path, prompts=prompts, default_prompt="query")
    assert model_input.encode("w0").tolist() == [CLS, 5, 4, 6, SEP]
    assert model_input.encode("w0", prompt="query").tolist() == [CLS, 5, 4, 6, SEP]
    assert model_input.encode("w0", prompt="bare").tolist() == [CLS, 4, SEP]
    with pytest.raises(InvalidInputError, match=r"'page' is not known; one of \['query', 'bare'\]"):
        model_input.encode("w0", prompt="page")


def test_a_text_that_looks_like_a_template_is_text(tmp_path: Path) -> None:
    model_input = text_input(tmp_path, prompts={"query": "w1 {text}"})
    assert model_input.encode("{text}", prompt="query").tolist() == [CLS, 5, 1, SEP]


def test_ids_are_taken_as_they_are(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    assert model_input.check_ids([5, 59, 0]).tolist() == [5, 59, 0]
    assert model_input.check_ids(range(9), truncate="right").tolist() == list(range(8))
    assert model_input.check_ids(range(9), truncate="left").tolist() == list(range(1, 9))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "the list of token ids is empty"),
        ([3, 60], "token id 60 is not in 0..59"),
        ([-1], "token id -1 is not in 0..59"),
        (list(range(9)), "9 token ids; at most 8 are allowed"),
    ],
    ids=["empty", "large", "negative", "many"],
)
def test_ids_that_cannot_be_used_are_refused(tmp_path: Path, ids: list[int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        text_input(tmp_path).check_ids(ids)


def test_gaps_between_ids_are_no_reason_to_refuse_the_last(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path) / TOKENIZER
    path.write_text(path.read_text().replace('"w55": 59', '"w55": 99'))
    model_input = TextInput.load(TextConfig(max_length=8), tmp_path)
    assert model_input.vocab_size == 100
    assert model_input.check_ids(model_input.encode("w55").tolist()).tolist() == [CLS, 99, SEP]


def test_items_are_packed(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    items = [model_input.encode(words(n)) for n in (3, 1)]
    tokens = model_input.collate(items)
    assert tokens.layout.lengths == (5, 3)
    assert tokens.values.tolist() == [*items[0].tolist(), *items[1].tolist()]


@pytest.mark.parametrize("max_length", [3, 32])
def test_the_example_is_no_longer_than_allowed(tmp_path: Path, max_length: int) -> None:
    model_input = text_input(tmp_path, max_length=max_length)
    assert 1 <= len(model_input.example()) <= max_length


def test_threads_do_not_disturb_one_another(tmp_path: Path) -> None:
    model_input = text_input(tmp_path)
    texts = [words(1 + i % 30) for i in range(400)]
    expected = [model_input.encode(text, truncate="right").tolist() for text in texts]
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda text: model_input.encode(text, truncate="right"), texts)
        assert [ids.tolist() for ids in found] == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 2}, "max_length=2 must be 3 or more"),
        ({"prompts": {"query": "text"}}, r"prompts\.query='text' must contain \{text\} once"),
        ({"default_prompt": "query"}, r"default_prompt='query' is not one of \[\]"),
    ],
    ids=["length", "template", "default"],
)
def test_a_configuration_that_cannot_be_followed_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TextConfig(**{"max_length": 8, **fields})


def test_special_tokens_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path) / TOKENIZER
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = type(tokenizer.post_processor)(
        single="[CLS] [CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))
    with pytest.raises(ValueError, match=r"max_length=3 leaves no room .* 3 special tokens"):
        TextInput.load(TextConfig(max_length=3), tmp_path)


@pytest.mark.parametrize("content", [None, "", "{}"], ids=["missing", "empty", "other"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / TOKENIZER).write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json (does not exist|is no tokenizer)"):
        TextInput.load(TextConfig(max_length=8), tmp_path)
