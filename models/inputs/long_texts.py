"""Tokenising as much of a text as decides its first, or last, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from models.inputs.content import InvalidInputError, Side
from models.inputs.cutting import Cuts

_BRIEF = 512  # characters that take less than a millisecond
_CHARACTERS_PER_TOKEN = 8  # more than text has, so that the first part mostly is enough
_GROWTH = 4


class Reading(NamedTuple):
    """What is read of a text.

    Attributes:
        text: With its template.
        room: Tokens that fit, special ones not counted.
        side: Which end is cut; None if none may be.
        max_chars: Most characters that are tokenised.
    """

    text: str
    room: int
    side: Side | None
    max_chars: int

    @property
    def num_first(self) -> int:
        """Characters that are looked at first."""
        return min(max(_BRIEF, _CHARACTERS_PER_TOKEN * self.room), self.max_chars)


class LongTexts:
    """Reads texts of any length; safe to call from several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cuts = Cuts.of(tokenizer)
        self._num_special = tokenizer.num_special_tokens_to_add(is_pair=False)

    def read(self, asked: Reading) -> Any:
        """Tokenise as much of a text as decides which tokens it is cut to.

        Returns:
            The encoding, cut, without special tokens.

        Raises:
            InvalidInputError: If it has too many and may not be cut; or if so many characters do
                not decide it.
        """
        text, room, side, max_chars = asked
        most = asked.num_first
        while len(text) > most:
            encoding = self._tokenise(self._part(text, most, side))
            if len(encoding) > room:
                return self._fitted(asked, encoding, is_whole=False)
            if most == max_chars:
                raise InvalidInputError(
                    f"the text has {len(text)} characters; at most {most} (max_text_chars) are "
                    f"looked at, and these do not settle what {room} tokens it is cut to"
                )
            most = min(most * _GROWTH, max_chars)
        return self._fitted(asked, self._tokenise(text), is_whole=True)

    def read_all(self, asked: Sequence[Reading]) -> list[Any]:
        """Return what `read` does of each; those that are read as a whole in one call."""
        together = [i for i, one in enumerate(asked) if len(one.text) <= one.num_first]
        whole = [asked[i].text for i in together]
        found = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        known = dict(zip(together, found, strict=True))
        return [
            self._fitted(one, known[i], is_whole=True) if i in known else self.read(one)
            for i, one in enumerate(asked)
        ]

    def _fitted(self, asked: Reading, encoding: Any, is_whole: bool) -> Any:
        """Cut an encoding to what fits."""
        count, special = len(encoding), self._num_special
        if count > asked.room:
            if asked.side is None:
                limit = asked.room + special
                told = count + special if is_whole else f"more than {limit}"
                raise InvalidInputError(
                    f"the text has {told} tokens; at most {limit} are allowed, unless it may be "
                    "truncated"
                )
            encoding.truncate(asked.room, direction=asked.side)
        return encoding

    def _part(self, text: str, most: int, side: Side | None) -> str:
        """Return what of a text, of up to so many characters, has the tokens that it has there."""
        if side == "left":
            start = self._cuts.first(text, len(text) - most)
            return "" if start is None else text[start:]
        return text[: self._cuts.last(text, most) or 0]

    def _tokenise(self, text: str) -> Any:
        if len(text) <= _BRIEF:  # sooner done than a thread of the library is woken
            return self._tokenizer.encode(text, add_special_tokens=False)
        # For one text the library would hold the interpreter's lock.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]
