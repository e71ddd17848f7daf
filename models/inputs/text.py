"""From text to packed token ids: what a model that reads text takes."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.files import reading
from models.inputs.content import Content, InvalidInputError, Side, Text, no_text, refuse
from models.inputs.digest import digest_of
from models.inputs.long_texts import LongTexts, Reading
from models.inputs.text_config import TextConfig
from models.inputs.token import Token
from models.nn.ragged import Ragged

__all__ = ["MAX_TEXT_CHARS", "TOKENIZER", "Side", "TextInput", "Token", "text_input"]

TOKENIZER = "tokenizer.json"
MAX_TEXT_CHARS = 2**17
_PROBE = "a Word, 1 \u00e9 \u6f22 \u2603"  # a vocabulary must have something for what it lacks


class TokenizerError(ValueError):
    """A file is no tokenizer, or one that cannot read every text. The message names it."""


class TextInput:
    """Tokenises; safe to call from several threads at once.

    Attributes:
        max_text_chars: Most characters that are tokenised of one text.
    """

    kind: ClassVar[str] = "text"
    has_length: ClassVar[bool] = True

    def __init__(
        self, config: TextConfig, tokenizer: Tokenizer, max_text_chars: int = MAX_TEXT_CHARS
    ) -> None:
        """Take over a tokenizer; its own truncation and padding are switched off.

        Raises:
            ValueError: If special tokens alone fill ``max_length``.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.config = config
        self._tokenizer = tokenizer
        self._num_special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if config.max_length <= self._num_special:
            raise ValueError(
                f"max_length={config.max_length} leaves no room beside the tokenizer's "
                f"{self._num_special} special tokens"
            )
        self.max_text_chars = max_text_chars
        self._long = LongTexts(tokenizer)
        # Ids may have gaps, so that a count would be too low.
        self.vocab_size = 1 + max(tokenizer.get_vocab().values(), default=-1)

    def to_json(self) -> str:
        """Return what ``tokenizer.json`` must hold."""
        text: str = self._tokenizer.to_str()
        return text

    @classmethod
    def load(cls, config: TextConfig, folder: Path) -> TextInput:
        """Read ``tokenizer.json`` from a checkpoint's folder.

        Raises:
            ValueError: If the file is missing or no tokenizer, or ``max_length`` does not suit it.
        """
        path = folder / TOKENIZER
        if not path.is_file():
            raise ValueError(f"{path} does not exist")
        with reading(path, TokenizerError):
            try:
                tokenizer = Tokenizer.from_file(str(path))
            except Exception as error:  # noqa: BLE001  # the library raises bare Exception
                raise TokenizerError(f"{path} is no tokenizer: {error}") from None
            made = cls(config, tokenizer)
            made.tokens(_PROBE)
        return made

    def decode(self, content: Content) -> Tensor:
        """Return the token ids of a text, or those that the client made.

        Raises:
            InvalidInputError: As `encode` and `check_ids`; or if the content is no text.
        """
        if not isinstance(content, Text):
            refuse("text", content)
        if isinstance(content.content, str):
            return self.encode(
                content.content, content.prompt, content.truncate, content.max_tokens
            )
        return self.check_ids(content.content, content.truncate, content.max_tokens)

    def decode_all(self, contents: Sequence[Content]) -> list[Tensor]:
        """Return what `decode` does of each; those that are not long are read in one call.

        Raises:
            InvalidInputError: As `decode`, of any of them.
        """
        known: dict[int, Reading] = {}
        for i, one in enumerate(contents):
            if isinstance(one, Text) and isinstance(one.content, str):
                known[i] = self._asked(one.content, one.prompt, one.truncate, one.max_tokens)
        read = dict(zip(known, self._long.read_all([*known.values()]), strict=True))
        return [
            self._ids(read[i]) if i in read else self.decode(one) for i, one in enumerate(contents)
        ]

    def encode(
        self,
        text: str,
        prompt: str | None = None,
        truncate: Side | None = None,
        max_tokens: int | None = None,
    ) -> Tensor:
        """Return the token ids of a text, special tokens included, int64, shape [length].

        Args:
            text: Not empty.
            prompt: Name of a template; None for the model's default.
            truncate: Which end to cut where the text is too long; None to refuse it.
            max_tokens: What is too long, where the model itself takes more.

        Raises:
            InvalidInputError: If the text is empty or too long, there is no such prompt, or
                ``max_text_chars`` characters do not decide which tokens are the text's.
        """
        asked = self._asked(text, prompt, truncate, max_tokens)
        return self._ids(self._long.read(asked))

    def _asked(
        self, text: str, prompt: str | None, truncate: Side | None, max_tokens: int | None
    ) -> Reading:
        room = self._limit(max_tokens) - self._num_special
        return Reading(self._templated(text, prompt), room, truncate, self.max_text_chars)

    def _ids(self, encoding: Any) -> Tensor:
        # Special tokens come last, so that truncation never removes one.
        ids = self._tokenizer.post_process(encoding).ids
        if not ids:
            raise InvalidInputError("the text has no tokens")
        return torch.frombuffer(array("q", ids), dtype=torch.int64)  # a third of `torch.tensor`

    def check_ids(
        self, ids: Sequence[int], truncate: Side | None = None, max_tokens: int | None = None
    ) -> Tensor:
        """Return token ids that the caller made, as they are: no special token is added.

        Raises:
            InvalidInputError: If there are none, too many, or one is not of the vocabulary.
        """
        if len(ids) == 0:
            raise InvalidInputError("the list of token ids is empty")
        limit = self._limit(max_tokens)
        if len(ids) > limit:  # the others are not even looked at: there may be millions
            if truncate is None:
                raise InvalidInputError(f"{len(ids)} token ids; at most {limit} are allowed")
            ids = ids[:limit] if truncate == "right" else ids[-limit:]
        self._check_vocabulary(ids)
        return torch.frombuffer(array("q", ids), dtype=torch.int64)

    def tokens(
        self, text: str, prompt: str | None = None, add_special_tokens: bool = True
    ) -> list[Token]:
        """Return the tokens of a text of up to ``max_text_chars`` characters, template included.

        Raises:
            InvalidInputError: If the text is empty or has more characters, or there is no such
                prompt.
        """
        text = self._templated(text, prompt)
        if len(text) > self.max_text_chars:
            raise InvalidInputError(
                f"the text has {len(text)} characters; at most {self.max_text_chars} "
                "(max_text_chars)"
            )
        (found,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return [
            Token(id_, name, True, None, None)
            if is_special
            else Token(id_, text[start:stop], False, start, stop)
            for id_, name, is_special, (start, stop) in zip(
                found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True
            )
        ]

    def text_of(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text that token ids stand for.

        Raises:
            InvalidInputError: If one is not of the vocabulary.
        """
        self._check_vocabulary(ids)
        # Alone it would hold the interpreter's lock.
        found = self._tokenizer.decode_batch([list(ids)], skip_special_tokens=skip_special_tokens)
        return str(found[0])

    def _templated(self, text: str, prompt: str | None) -> str:
        if not text:
            raise InvalidInputError("the text is empty")
        name = prompt if prompt is not None else self.config.default_prompt
        if name is None:
            return text
        if name not in self.config.prompts:
            known = list(self.config.prompts)
            raise InvalidInputError(f"prompt {name!r} is not known; one of {known}")
        return self.config.prompts[name].replace("{text}", text)

    def _limit(self, max_tokens: int | None) -> int:
        if max_tokens is None:
            return self.config.max_length
        if max_tokens <= self._num_special:
            raise InvalidInputError(
                f"{max_tokens} tokens leave no room beside the {self._num_special} special ones"
            )
        return min(max_tokens, self.config.max_length)

    def _check_vocabulary(self, ids: Sequence[int]) -> None:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise InvalidInputError(f"token id {token} is not in 0..{self.vocab_size - 1}")

    def shape_of(self, value: Tensor) -> tuple[int]:
        """Return the shape that plans of this input are made for: (tokens,)."""
        return (value.shape[0],)

    def plan_shape(self, length: int | None) -> tuple[int]:
        """Return (tokens,), by default the longest; InvalidInputError if it is too long."""
        limit = self.config.max_length
        if length is not None and not 1 <= length <= limit:
            raise InvalidInputError(f"tokens={length} must be 1 to {limit}")
        return (length or limit,)

    def bucket(self, value: Tensor) -> int:
        """Return the length's power of two, from 64 on."""
        # Only attention pads its rows; below 64 tokens that costs less than a smaller batch.
        return max(6, (value.shape[0] - 1).bit_length())

    def size(self, value: Tensor) -> int:
        """Return the length."""
        return value.shape[0]  # not `len`, which takes ten times as long

    def digest(self, value: Tensor) -> Hashable:
        """Return a digest of the ids."""
        return digest_of(value)

    def collate(self, values: Sequence[Tensor]) -> Ragged:
        """Return a batch, packed."""
        return Ragged.pack(values)

    def example(self, length: int | None = None) -> Tensor:
        """Return an input to warm up with, by default a short one, of tokens far apart."""
        length = length or min(8, self.config.max_length)
        return torch.linspace(0, self.vocab_size - 1, length).long()

    def describe(self) -> dict[str, Any]:
        """Return the greatest length and the prompts."""
        return {
            "kind": self.kind,
            "max_length": self.config.max_length,
            "prompts": dict(self.config.prompts),
            "default_prompt": self.config.default_prompt,
        }


def limit_texts(inputs: Mapping[str, Any], max_chars: int) -> None:
    """Set how many characters are tokenised of one text, for all inputs that take text."""
    for slot in inputs.values():
        if isinstance(slot.type, TextInput):
            slot.type.max_text_chars = max_chars


def text_input(inputs: Mapping[str, Any], name: str | None = None) -> TextInput:
    """Return what a model does with its text.

    Args:
        inputs: Of the model.
        name: Of the input; None for the first that takes text.

    Raises:
        InvalidInputError: If the model takes none.
    """
    for own, slot in inputs.items():
        if isinstance(slot.type, TextInput) and name in (None, own):
            return slot.type
    raise no_text(slot.type.kind for slot in inputs.values())
