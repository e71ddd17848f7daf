"""The special and added tokens that the files beside ``tokenizer.json`` name.

Source: tokenization_utils_base.py and tokenization_utils_tokenizers.py in huggingface/transformers
5.23.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from models.formats.folder import Fields, FormatError
from models.inputs.text import TOKENIZER

SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


class Tokens:
    """The special tokens that the files beside ``tokenizer.json`` name."""

    def __init__(self, settings: Fields, legacy: Mapping[str, Any]) -> None:
        self.values = {**settings.values, **legacy}
        self._settings = settings

    def named(self, name: str, defaults: Mapping[str, str]) -> str | None:
        """Return the token of a role, ``cls`` for instance."""
        value = self.values.get(f"{name}_token")
        return defaults.get(name) if value is None else self._content(value)

    def all(self, defaults: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
        """Return every special token once, and whether a file names it."""
        seen: set[str] = set()
        given = [v for k, v in self.values.items() if k.endswith("_token") and v is not None]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            more = self.values.get(name) or []
            given += more.values() if isinstance(more, dict) else more
        for content, is_named in (
            *((self._content(value), True) for value in given),
            *((content, False) for content in defaults.values()),
        ):
            if content not in seen:
                seen.add(content)
                yield content, is_named

    def _content(self, value: Any) -> str:
        content = value.get("content") if isinstance(value, dict) else value
        if not isinstance(content, str):
            raise FormatError(f"{self._settings.path}: {value!r} is no token; allowed: a text")
        return content


def own_tokens(settings: Fields) -> Iterator[str]:
    """Return the fields of special tokens that only this model has."""
    return (
        name
        for name, value in settings.values.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    )


def special_tokens(folder: Path, settings: Fields) -> Mapping[str, Any]:
    """Return the older file of special tokens, which counts where the newer field is not there."""
    if settings.values.get("added_tokens_decoder") is not None:
        return {}
    return Fields.read_if_there(folder / SPECIAL_TOKENS).values


def add_tokens(
    folder: Path,
    tokenizer: Tokenizer,
    settings: Fields,
    tokens: Tokens,
    defaults: Mapping[str, str],
) -> None:
    """Add the tokens that other files name and ``tokenizer.json`` does not.

    Raises:
        FormatError: If one has another id or other flags there.
    """
    special = dict(tokens.all(defaults))
    known = {one.content: one for one in tokenizer.get_added_tokens_decoder().values()}
    for fields, id_, token in _listed(folder, settings, special):
        if token.content not in known:
            tokenizer.add_tokens([token])
            known[token.content] = token
        same = all(getattr(token, f) == getattr(known[token.content], f) for f in _FLAGS)
        if tokenizer.token_to_id(token.content) != id_ or not same:
            raise FormatError(
                f"{fields.path}: token {id_} is {token!r}; in {TOKENIZER} its id or flags differ"
            )
    for content, is_named in special.items():
        if content not in known and (is_named or tokenizer.token_to_id(content) is not None):
            tokenizer.add_tokens([AddedToken(content, special=True)])


def _listed(
    folder: Path, settings: Fields, special: Mapping[str, bool]
) -> Iterator[tuple[Fields, int, AddedToken]]:
    listed = settings.within("added_tokens_decoder")
    for id_, token in listed.values.items():
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise listed.error(id_, "an object with the content of a token")
        yield settings, int(id_), AddedToken(**token)
    if settings.values.get("added_tokens_decoder") is not None:
        return
    added = Fields.read_if_there(folder / ADDED_TOKENS)
    for content in added.values:
        is_special = content in special
        token = AddedToken(content, normalized=not is_special, special=is_special)
        yield added, added.integer(content), token
