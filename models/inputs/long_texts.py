"""Tokenising as much of a text as decides its first, or last, tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from models.inputs.content import InvalidInputError, Side
from models.inputs.cutting import Cuts

_BRIEF = 512  # characters that take less than a millisecond
_CHARACTERS_PER_TOKEN = 8  # more than text has, so that the first part mostly is enough
_GROWTH = 4


class LongTexts:
    """Reads texts of any length; safe to call from several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cuts = Cuts.of(tokenizer)

    def read(self, text: str, room: int, side: Side | None, max_chars: int) -> tuple[Any, bool]:
        """Tokenise as much of a text as decides which ``room`` tokens it is cut to.

        Args:
            text: With its template.
            room: Tokens that fit, special ones not counted.
            side: Which end is cut; None if none may be.
            max_chars: Most characters that are tokenised.

        Returns:
            The encoding, without special tokens, and whether it is that of the whole text;
            otherwise it has more than ``room`` tokens, of which those that fit are the text's.

        Raises:
            InvalidInputError: If so many characters do not decide it.
        """
        most = min(max(_BRIEF, _CHARACTERS_PER_TOKEN * room), max_chars)
        while len(text) > most:
            encoding = self._tokenise(self._part(text, most, side))
            if len(encoding) > room:
                return encoding, False
            if most == max_chars:
                raise InvalidInputError(
                    f"the text has {len(text)} characters; at most {most} (max_text_chars) are "
                    f"looked at, and these do not settle what {room} tokens it is cut to"
                )
            most = min(most * _GROWTH, max_chars)
        return self._tokenise(text), True

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
