"""One token of a text, and where it stands there."""

from __future__ import annotations

from typing import NamedTuple


class Token(NamedTuple):
    """One token of a text.

    Attributes:
        id: In the vocabulary.
        text: The characters it stands for; of a special token its name.
        is_special: Whether the tokenizer added it.
        start: Its first character in the text; None for a special token.
        stop: One after its last; None for a special token.
    """

    id: int
    text: str
    is_special: bool
    start: int | None
    stop: int | None
