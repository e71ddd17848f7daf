from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from models.inputs.image import ImageInput
from server.errors import InvalidRequestError
from server.inputs.sources import Pixels, Upload
from tests.server.samples import image, text_of

INPUT = ImageInput(16, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
PNG = image()


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
    torch.testing.assert_close(Upload("image", content).decode(INPUT), INPUT.from_file(PNG))


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


def test_pixels_of_any_size_become_what_the_encoded_image_does() -> None:
    for file in (PNG, image(1, 30, 21)):
        pixels = np.array(Image.open(io.BytesIO(file)))
        found = Pixels("rgb[0]", pixels).decode(INPUT)
        torch.testing.assert_close(found, INPUT.from_file(file))


def test_normalised_values_are_taken_as_they_are_or_refused_by_their_place() -> None:
    values = INPUT.from_file(PNG).numpy()
    torch.testing.assert_close(Pixels("x[0]", values).decode(INPUT), INPUT.from_file(PNG))
    for wrong in (np.float32("nan"), np.float32("inf"), np.float32(255)):
        values = INPUT.from_file(PNG).numpy().copy()
        values[1, 2, 3] = wrong
        with pytest.raises(InvalidRequestError, match=r"x\[3\]: channel 1 holds") as caught:
            Pixels("x[3]", values).decode(INPUT)
        assert caught.value.field == "x[3]"
