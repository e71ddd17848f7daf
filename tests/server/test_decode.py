from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from models.inputs import ImageInput
from server.decode import Decoder, Pixels, Unread, Upload
from server.errors import InvalidRequestError
from tests.server.samples import image, run, text_of

INPUT = ImageInput(16, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
PNG = image()


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(2)
    yield decoder
    decoder.close()


@pytest.mark.parametrize(
    "content",
    [
        PNG,
        text_of(PNG),
        f"data:image/png;base64,{text_of(PNG)}",
        f"data:;base64,{text_of(PNG)}",
        f"data:text/plain;charset=utf-8;base64,{text_of(PNG)}",
    ],
)
def test_bytes_base64_and_data_urls_of_an_image_are_the_same(content: bytes | str) -> None:
    torch.testing.assert_close(Upload("image", content).decode(INPUT), INPUT.decode(PNG))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"images\[2\]: the image is empty \(0 bytes\)"),
        (b"", r"images\[2\]: the image is empty \(0 bytes\)"),
        (b"hello", r"images\[2\]: not an image; allowed: PNG, JPEG, WEBP"),
        (text_of(b"hello"), r"images\[2\]: not an image"),
        ("%%%", r"images\[2\] is not base64: "),
        ("abc", r"images\[2\] is not base64: "),
        ("YWJj\nYWJj", r"images\[2\] is not base64: "),
        ("YW_-", r"images\[2\] is not base64: "),
        ("é", r"images\[2\] is not base64: "),
        ("data:image/png;base64", r"images\[2\]: a data URL must read data:image/png;base64,"),
        (f"data:image/png,{text_of(PNG)}", r"images\[2\]: a data URL must read "),
        ("data:image/png;base64,???", r"images\[2\] is not base64: "),
        (PNG[:-200], r"images\[2\]: the image cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused_by_its_place(content: bytes | str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Upload("images[2]", content).decode(INPUT)
    assert caught.value.field == "images[2]"


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


def test_pixels_of_any_size_become_what_the_encoded_image_does() -> None:
    for file in (PNG, image(1, 30, 21)):
        pixels = np.array(Image.open(io.BytesIO(file)))
        found = Pixels("rgb[0]", pixels).decode(INPUT)
        torch.testing.assert_close(found, INPUT.decode(file))


def test_normalised_values_are_taken_as_they_are_or_refused_by_their_place() -> None:
    values = INPUT.decode(PNG).numpy()
    torch.testing.assert_close(Pixels("x[0]", values).decode(INPUT), INPUT.decode(PNG))
    for wrong in (np.float32("nan"), np.float32("inf"), np.float32(255)):
        values = INPUT.decode(PNG).numpy().copy()
        values[1, 2, 3] = wrong
        with pytest.raises(InvalidRequestError, match=r"x\[3\]: channel 1 holds") as caught:
            Pixels("x[3]", values).decode(INPUT)
        assert caught.value.field == "x[3]"


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


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_function_can_be_called_on_all_items_in_order(decoder: Decoder, count: int) -> None:
    async def scenario() -> None:
        assert await decoder.map(str, range(count)) == [str(i) for i in range(count)]
        if count > 2:
            with pytest.raises(ZeroDivisionError):
                await decoder.map(lambda i: 1 // (i - 2), range(count))

    run(scenario())
