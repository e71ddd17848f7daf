from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from models.inputs import ImageInput
from server.decode import Unread, Upload
from server.decoder import Decoder
from server.errors import InvalidRequestError
from tests.server.samples import image, run

INPUT = ImageInput(16, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
PNG = image()


def test_images_come_back_in_order_and_in_shape(decoder: Decoder) -> None:
    async def scenario() -> None:
        files = [image(seed, 10 + seed, 30 - seed) for seed in range(12)]
        uploads = [Upload(f"images[{i}]", file) for i, file in enumerate(files)]
        tensors = await decoder.decode(uploads, INPUT)
        for file, tensor in zip(files, tensors, strict=True):
            assert tensor.shape == INPUT.shape
            torch.testing.assert_close(tensor, INPUT.decode(file), atol=0, rtol=0)

    run(scenario())


def test_of_several_wrong_images_the_first_is_named(decoder: Decoder) -> None:
    async def scenario() -> None:
        contents: list[bytes | str] = [PNG, b"wrong", PNG, b"", "%"]
        uploads = [Upload(f"images[{i}]", content) for i, content in enumerate(contents)]
        for _ in range(10):
            with pytest.raises(InvalidRequestError, match=r"images\[1\]: not an image"):
                await decoder.decode(uploads, INPUT)

    run(scenario())


def test_decoding_leaves_the_event_loop_free(decoder: Decoder) -> None:
    async def scenario() -> None:
        decoding = asyncio.ensure_future(decoder.decode([Upload("image", PNG)], INPUT))
        await asyncio.sleep(0)
        assert not decoding.done()
        await decoding

    run(scenario())


def test_what_is_unread_is_read_on_the_decoders_threads(decoder: Decoder) -> None:
    threads: list[str] = []

    def read() -> Upload:
        threads.append(threading.current_thread().name)
        return Upload("image", PNG)

    async def scenario() -> None:
        (tensor,) = await decoder.decode([Unread(0, read)], INPUT)
        torch.testing.assert_close(tensor, INPUT.decode(PNG))
        assert [name.startswith("decode") for name in threads] == [True]

    run(scenario())
