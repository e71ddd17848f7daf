"""Long texts: what is tokenised of them gives the tokens that the whole would give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordLevel
from tokenizers.trainers import BpeTrainer, UnigramTrainer

import models
from models.inputs import InvalidInputError
from models.inputs.content import Side
from models.inputs.cutting import Cuts
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig

ZOO = Path(models.__file__).parent / "zoo"
LENGTH = 100_000
SAMPLE = (
    "The quick brown fox, it's 3,000 years old; isn't it? Über naïve façades at 漢字かな交じり文。",
    "Съешь ещё этих мягких французских булок   да выпей чаю.\n\tdef f(x): return x ** 2  # done",
    "हिन्दी में कुछ शब्द 한국어 문장 ไทย עברית العربية 🙂👩‍👩‍👧 «цитата» [MASK] <mask> a\u0301e\u0308",
)
FRAGMENTS = (
    *(" ", " ", "  ", "\n", "\t ", "\r\n", "\u00a0", "\u3000", "\u200b", "\u2028", "\0", "\ufffd"),
    *(
        "the",
        "Fox",
        "x",
        "a",
        "isn't",
        "'s",
        "3",
        "1984",
        "ÜBER",
        "naïve",
        "İ",
        "ß",
        "ﬃ",
        "ﷺ",
        "\u037a",
    ),
    *("漢", "字", "々", "かな", "ガ", "한국", "ไทย", "ำ", "हिन्दी", "עברית", "العربية", "…", "½"),
    *(
        "\u0301",
        "\u0338",
        "=",
        "a\u0301",
        "\u0345",
        "🙂",
        "👩‍👩‍👧",
        ".",
        ",",
        "-",
        "_",
        "##",
        "▁",
        "Ġ",
    ),
    *("[MASK]", "[SEP]", "<mask>", "é", "e\u0301", "w1", " w2", "hello ", " world"),
)


def bert(**fields: Any) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(ZOO / "minilm-2d" / TOKENIZER))
    if fields:
        tokenizer.normalizer = normalizers.BertNormalizer(**fields)
    return tokenizer


def byte_level(add_prefix_space: bool, *before: Any) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SAMPLE * 3, BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), "[SEP]"])
    return tokenizer


def sentence_pieces(*before: Any, **fields: Any) -> Tokenizer:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Strip(left=False),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.Metaspace(**fields)])
    trainer = UnigramTrainer(
        vocab_size=220, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(SAMPLE * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), "[SEP]"])
    return tokenizer


def words() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "the": 1, "w1": 2, "w2": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bert": bert,
    "cased": lambda: bert(lowercase=False, strip_accents=False, handle_chinese_chars=False),
    "roberta": lambda: byte_level(False),
    "prefix-space": lambda: byte_level(True),
    "starcoder": lambda: byte_level(False, pre_tokenizers.Digits(individual_digits=True)),
    "metaspace": lambda: sentence_pieces(prepend_scheme="always"),
    "metaspace-first": lambda: sentence_pieces(prepend_scheme="first"),
    "xlm-roberta": lambda: sentence_pieces(
        pre_tokenizers.WhitespaceSplit(), prepend_scheme="always"
    ),
    "words": words,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made = TOKENIZERS[request.param]()
    made.no_truncation()
    made.no_padding()
    return made


def whole(tokenizer: Tokenizer, text: str) -> list[int]:
    (encoding,) = tokenizer.encode_batch([text], add_special_tokens=False)
    ids: list[int] = encoding.ids
    return ids


def repeated(fragments: list[str], length: int = LENGTH) -> str:
    text = "".join(fragments)
    return (text * (1 + length // len(text)))[:length]


texts = st.builds(
    repeated, st.lists(st.sampled_from(FRAGMENTS) | st.characters(codec="utf-8"), min_size=1)
)


@settings(max_examples=12, deadline=None)
@given(text=texts, side=st.sampled_from(["left", "right"]), most=st.integers(3, 300))
def test_a_long_text_is_cut_to_the_tokens_of_the_whole(
    tokenizer: Tokenizer, text: str, side: Side, most: int
) -> None:
    ids = whole(tokenizer, text)
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    model_input = TextInput(TextConfig(most), tokenizer)
    room = most - special
    wanted = ids[:room] if side == "right" else ids[-room:]
    found = model_input.encode(f"{text}", truncate=side).tolist() if wanted or special else []
    if special:  # one at either end
        found = found[1:-1]
    assert found == wanted


@settings(max_examples=12, deadline=None)
@given(text=texts)
def test_a_text_is_refused_only_if_the_whole_is_too_long(tokenizer: Tokenizer, text: str) -> None:
    model_input = TextInput(TextConfig(300), tokenizer)
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    count = len(whole(tokenizer, text)) + special
    if count > 300:
        with pytest.raises(InvalidInputError, match=f"has (more than 300|{count}) tokens; at most"):
            model_input.encode(text)
    elif count:
        assert len(model_input.encode(text)) == count


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.sampled_from(FRAGMENTS), min_size=1).map("".join),
    after=st.lists(st.sampled_from(FRAGMENTS), min_size=1).map("".join),
    ends=st.sampled_from(["a b", "漢 字", "漢字", "é Ü", "1 x", "й 한", "x ไ", "ة b"]),
)
def test_the_parts_of_a_cut_have_the_tokens_of_the_whole(
    tokenizer: Tokenizer, before: str, after: str, ends: str
) -> None:
    text = before + ends + after
    cuts = Cuts.of(tokenizer)
    for place in {cuts.last(text, len(text) - 1), cuts.first(text, 1)} - {None}:
        parts = (text[:place], text[place:])
        found = [token for part in parts for token in whole(tokenizer, part)]
        assert found == whole(tokenizer, text), parts


def test_places_are_the_nearest(tokenizer: Tokenizer) -> None:
    cuts, text = Cuts.of(tokenizer), "ab cd  ef. gh ij"
    assert [cuts.last(text, most) for most in (1, 3, 12, 14, 15)] == [None, 2, 2, 13, 13]
    assert [cuts.first(text, least) for least in (1, 2, 3, 13, 14)] == [2, 2, 13, 13, None]


def test_tokenizers_that_are_not_known_to_forget_are_not_cut() -> None:
    def with_parts(normalizer: Any = None, splitter: Any = None, token: Any = None) -> Tokenizer:
        tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        if splitter is not None:
            tokenizer.pre_tokenizer = splitter
        if token is not None:
            tokenizer.add_tokens([token])
        return tokenizer

    spaces = pre_tokenizers.WhitespaceSplit()
    for one in (
        with_parts(),
        with_parts(splitter=pre_tokenizers.Metaspace(split=False)),
        with_parts(splitter=pre_tokenizers.ByteLevel(use_regex=False)),
        with_parts(splitter=pre_tokenizers.Split("b c", "isolated")),
        with_parts(normalizers.Prepend("x"), spaces),
        with_parts(normalizers.Replace("b c", "d"), spaces),
        with_parts(normalizers.Replace(Regex("."), "d"), spaces),
        with_parts(normalizers.Strip(), spaces),
        with_parts(token=AddedToken("b c"), splitter=spaces),
        with_parts(token=AddedToken("b", rstrip=True), splitter=spaces),
    ):
        assert Cuts.of(one).last("a b c d", 5) is None
        assert Cuts.of(one).first("a b c d", 1) is None
    assert Cuts.of(with_parts(splitter=spaces)).last("a b c d", 6) == 5


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize(
    "text", ["x" * 10**7, "a" + " " * 10**7 + "b", "a" + "\u0301" * 10**7, "かな" * 10**6]
)
def test_a_text_that_cannot_be_cut_is_refused_by_its_characters(
    text: str, side: Side | None
) -> None:
    model_input = TextInput(TextConfig(256), bert())
    with pytest.raises(InvalidInputError, match=rf"{len(text)} characters; .* \(max_text_chars\)"):
        model_input.encode(text, truncate=side)
