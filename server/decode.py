"""From what a client sent to the model's input, off the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from models.inputs import ImageInput, InvalidInputError, ModelInput
from models.text import Side, TextInput
from server.errors import InvalidRequestError

_CHARACTERS_PER_TOKEN = 4  # of English in WordPiece, about


class Source(Protocol):
    """One input of a request, as the client sent it."""

    @property
    def num_tokens(self) -> int:
        """About how many tokens it will have, before it is read; 0 where inputs have no length."""

    def decode(self, model_input: ModelInput) -> Tensor:
        """Return the model's input.

        Raises:
            InvalidRequestError: Naming the field, if it is none.
        """


@dataclass(frozen=True, slots=True)
class Upload:
    """One encoded image of a request.

    Attributes:
        field: Where in the request it was, for errors.
        content: The file's bytes; or text: base64, bare or as a data URL.
    """

    field: str
    content: bytes | str

    @property
    def num_tokens(self) -> int:
        """0: images have no length."""
        return 0

    def decode(self, model_input: ModelInput) -> Tensor:
        """Decode the image; InvalidRequestError if it is not base64 where it should be, or none."""
        if not isinstance(model_input, ImageInput):
            raise InvalidRequestError(
                f"{self.field}: this model takes text, not images", self.field
            )
        content = self.content
        if isinstance(content, str):
            content = _from_base64(content, self.field)
        try:
            return model_input.decode(content)
        except InvalidInputError as error:
            raise InvalidRequestError(f"{self.field}: {error}", self.field) from None


@dataclass(frozen=True, slots=True)
class Passage:
    """One text of a request.

    Attributes:
        field: Where in the request it was, for errors.
        content: The text, or token ids that the client made.
        prompt: Name of a template of the model; None for its default.
        truncate: Which end to cut where it is too long; None to refuse it.
    """

    field: str
    content: str | Sequence[int]
    prompt: str | None = None
    truncate: Side | None = None

    @property
    def num_tokens(self) -> int:
        """Of ids their number; of a text a guess."""
        if isinstance(self.content, str):
            return 2 + len(self.content) // _CHARACTERS_PER_TOKEN
        return max(1, len(self.content))

    def decode(self, model_input: ModelInput) -> Tensor:
        """Tokenise the text; InvalidRequestError if it is empty, too long or not of the model."""
        if not isinstance(model_input, TextInput):
            raise InvalidRequestError(
                f"{self.field}: this model takes images, not text", self.field
            )
        try:
            if isinstance(self.content, str):
                return model_input.encode(self.content, self.prompt, self.truncate)
            return model_input.check_ids(self.content, self.truncate)
        except InvalidInputError as error:
            raise InvalidRequestError(f"{self.field}: {error}", self.field) from None


class Decoder:
    """A bounded pool of threads. What waits for it is bounded by admission."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")

    async def decode(self, sources: Sequence[Source], model_input: ModelInput) -> list[Tensor]:
        """Decode the inputs of one request, each thread a share of them.

        Returns:
            One tensor per input, in order.

        Raises:
            InvalidRequestError: Naming the first input that is none.
        """
        loop = asyncio.get_running_loop()
        share = max(1, -(-len(sources) // self._num_threads))
        jobs = [
            loop.run_in_executor(
                self._pool, _decode_all, sources[start : start + share], model_input
            )
            for start in range(0, len(sources), share)
        ]
        # Wait for all, so that the same request always names the same input.
        results = await asyncio.gather(*jobs, return_exceptions=True)
        tensors: list[Tensor] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            tensors.extend(result)
        return tensors

    def close(self) -> None:
        """Stop the threads once they are idle."""
        self._pool.shutdown()


def _decode_all(sources: Sequence[Source], model_input: ModelInput) -> list[Tensor]:
    return [source.decode(model_input) for source in sources]


def _from_base64(text: str, field: str) -> bytes:
    if text.startswith("data:"):
        header, comma, text = text.partition(",")
        if not comma or not header.endswith(";base64"):
            raise InvalidRequestError(
                f"{field}: a data URL must read data:image/png;base64,... (or another type)", field
            )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{field} is not base64: {error}", field) from None
