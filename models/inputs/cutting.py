"""Where a long text may be cut so that each part has the tokens that it has in the whole.

A text of megabytes takes seconds to tokenise, and only its first or last few hundred tokens count.
Between two letters with one space in between the tokenizers listed here have no memory: what is
before the space and what begins with it can be tokenised apart. Other tokenizers are not cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

# Letters and digits whose normal forms begin and end with something that is neither a space nor a
# combining mark: Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Thai, kana, Han, Hangul.
_HAN = "\u4e00-\u9fff"
_LETTERS = (
    "0-9A-Za-z\u00c0-\u024f\u0386-\u0481\u048a-\u052f\u05d0-\u05ea\u0620-\u064a\u0904-\u0939"
    f"\u0e01-\u0e30\u3041-\u3096\u30a1-\u30fa{_HAN}\uac00-\ud7a3"
)
_WORDS = f"(?<=[{_LETTERS}])(?= [{_LETTERS}])"
_HAN_SIDE_BY_SIDE = f"(?<=[{_HAN}])(?=[{_HAN}])"

# Each looks at one character with its combining marks at a time.
_LOCAL_NORMALIZERS = {
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "StripAccents",
}
_LOCAL_SPLITTERS = {"Digits", "Punctuation"}
_SPACE_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}


class Cuts:
    """Finds the places at which a text may be cut."""

    def __init__(self, pattern: str | None) -> None:
        """Take a pattern of empty matches; None where a text must stay whole."""
        self._first = None if pattern is None else re.compile(pattern)
        self._last = None if pattern is None else re.compile(f"(?s:.*)(?:{pattern})")

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Cuts:
        """Return the places that are safe for a tokenizer, by the kinds of its parts."""
        normalizers = list(_parts(tokenizer.normalizer, "normalizers"))
        splitters = list(_parts(tokenizer.pre_tokenizer, "pretokenizers"))
        is_safe = (
            all(map(_is_local_normalizer, normalizers))
            and all(_is_local_splitter(part) or _splits_at_spaces(part) for part in splitters)
            and any(map(_splits_at_spaces, splitters))
            and not any(map(_spans_words, tokenizer.get_added_tokens_decoder().values()))
        )
        if not is_safe:
            return cls(None)
        kinds = [part["type"] for part in (*normalizers, *splitters)]
        is_bert = kinds == ["BertNormalizer", "BertPreTokenizer"]
        if is_bert and normalizers[0].get("handle_chinese_chars"):
            return cls(f"{_WORDS}|{_HAN_SIDE_BY_SIDE}")  # each of them is a word of its own
        return cls(_WORDS)

    def last(self, text: str, before: int) -> int | None:
        """Return the last place before a character; None if there is none.

        Args:
            text: The whole.
            before: In 1 .. len(text) - 1.
        """
        if self._last is None:
            return None
        found = self._last.match(text, 0, before + 1)  # it looks at least one character ahead
        return found.end() if found else None

    def first(self, text: str, after: int) -> int | None:
        """Return the first place at or after a character; None if there is none.

        Args:
            text: The whole.
            after: In 1 .. len(text) - 1.
        """
        if self._first is None:
            return None
        found = self._first.search(text, after)
        return found.start() if found else None


def _parts(part: Any, inside: str) -> Iterator[Mapping[str, Any]]:
    """Return the fields of a part of a tokenizer, or of those that it is a sequence of."""
    if part is None:
        return
    stack: list[Mapping[str, Any]] = [json.loads(part.__getstate__())]
    while stack:
        fields = stack.pop()
        if fields.get("type") == "Sequence":
            stack += reversed(fields[inside])
        else:
            yield fields


def _is_local_normalizer(fields: Mapping[str, Any]) -> bool:
    match fields:
        case {"type": "Strip", "strip_left": bool(left)}:
            return not left  # a later part would lose the space that it begins with
        case {"type": "Replace", "pattern": {"Regex": " {2,}"}}:
            return True
        case {"type": "Replace", "pattern": {"String": str(text)}}:
            return not re.search(f"[ {_LETTERS}]", text)
    return fields.get("type") in _LOCAL_NORMALIZERS


def _is_local_splitter(fields: Mapping[str, Any]) -> bool:
    return fields.get("type") in _LOCAL_SPLITTERS


def _splits_at_spaces(fields: Mapping[str, Any]) -> bool:
    match fields:
        case {"type": "ByteLevel"}:
            return bool(fields.get("use_regex", True))
        case {"type": "Metaspace"}:
            return bool(fields.get("split", True))
    return fields.get("type") in _SPACE_SPLITTERS


def _spans_words(token: Any) -> bool:
    """Return whether an added token may reach over a space between two letters."""
    text = token.content
    is_word = re.match(f"[{_LETTERS}]", text) or re.search(f"[{_LETTERS}]$", text)
    return any(map(str.isspace, text)) or bool((token.lstrip or token.rstrip) and is_word)
