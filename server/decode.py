"""From what a client sent as an image to the model's input, off the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from models.inputs import ImageInput, InvalidInputError
from server.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Upload:
    """One encoded image of a request.

    Attributes:
        field: Where in the request it was, for errors.
        content: The file's bytes; or text: base64, bare or as a data URL.
    """

    field: str
    content: bytes | str


class Decoder:
    """A bounded pool of threads. What waits for it is bounded by admission."""

    def __init__(self, num_threads: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")

    async def decode(self, uploads: Sequence[Upload], image_input: ImageInput) -> list[Tensor]:
        """Decode the images of one request.

        Returns:
            One float32 tensor per image, shape ``image_input.shape``.

        Raises:
            InvalidRequestError: Naming the first image that is none.
        """
        loop = asyncio.get_running_loop()
        jobs = [
            loop.run_in_executor(self._pool, decode_one, upload, image_input) for upload in uploads
        ]
        # Wait for all, so that the same request always names the same image.
        results = await asyncio.gather(*jobs, return_exceptions=True)
        tensors = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            tensors.append(result)
        return tensors

    def close(self) -> None:
        """Stop the threads once they are idle."""
        self._pool.shutdown()


def decode_one(upload: Upload, image_input: ImageInput) -> Tensor:
    """Decode one image.

    Raises:
        InvalidRequestError: If it is not base64 where it should be, or not an image.
    """
    content = upload.content
    if isinstance(content, str):
        content = _from_base64(content, upload.field)
    try:
        return image_input.decode(content)
    except InvalidInputError as error:
        raise InvalidRequestError(f"{upload.field}: {error}", upload.field) from None


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
