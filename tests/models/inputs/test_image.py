from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from models.inputs import InvalidInputError
from models.inputs.content import Array, Encoded
from models.inputs.image import ImageInput

INPUT = ImageInput(16, 24, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def encode(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def claim_size(png: bytes, width: int, height: int) -> bytes:
    """Rewrite a PNG's header to claim another size, checksum and all."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = noise(24, 16)
    tensor = INPUT.decode(Encoded(encode(image)))
    assert tensor.shape == INPUT.shape == (3, 16, 24)
    assert tensor.dtype == torch.float32
    pixels = np.asarray(image).transpose(2, 0, 1) / 255
    expected = (pixels - np.array(INPUT.mean)[:, None, None]) / np.array(INPUT.std)[:, None, None]
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)


FORMS = [("JPEG", mode) for mode in ("RGB", "L")] + [
    (form, mode) for form in ("PNG", "WEBP") for mode in ("RGB", "L", "RGBA", "P")
]


@pytest.mark.parametrize(("form", "mode"), FORMS)
def test_formats_and_modes_decode(form: str, mode: str) -> None:
    image = noise(24, 16, mode)
    assert INPUT.decode(Encoded(encode(image, form))).shape == (3, 16, 24)


@pytest.mark.parametrize("size", [(1, 1), (48, 16), (24, 200), (3000, 2), (100, 100)])
def test_other_sizes_are_scaled_to_fit_the_shorter_side_and_cut_at_the_centre(
    size: tuple[int, int],
) -> None:
    assert INPUT.decode(Encoded(encode(noise(*size)))).shape == (3, 16, 24)
    flat = Image.new("RGB", size, (255, 0, 128))
    tensor = INPUT.decode(Encoded(encode(flat)))
    expected = INPUT.normalise(torch.tensor([255, 0, 128], dtype=torch.uint8).view(3, 1, 1))
    torch.testing.assert_close(tensor, expected.expand_as(tensor), atol=0.03, rtol=0)


def test_the_centre_is_what_is_kept() -> None:
    wide = Image.new("RGB", (72, 16), (0, 0, 0))
    wide.paste((255, 255, 255), (24, 0, 48, 16))
    tensor = INPUT.decode(Encoded(encode(wide)))
    white = INPUT.normalise(torch.full((3, 16, 24), 255, dtype=torch.uint8))
    torch.testing.assert_close(tensor[:, :, 2:-2], white[:, :, 2:-2], atol=0.05, rtol=0)


PNG = encode(noise(24, 16))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello", "not an image; allowed: PNG, JPEG, WEBP"),
        (encode(noise(24, 16), "GIF"), "not an image; allowed"),
        (encode(noise(24, 16), "BMP"), "not an image; allowed"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (PNG[:20], "not an image|cannot be opened"),
        (encode(noise(240, 160), "JPEG")[:900], "cannot be decoded|cannot be opened"),
        (encode(noise(240, 160), "WEBP")[:900], "cannot be|not an image"),
        (claim_size(PNG, 0, 0), "cannot be|not an image"),
        (claim_size(PNG, 30_000, 30_000), "more than 40,000,000 pixels"),
        (claim_size(PNG, 7_000, 7_000), "more than 40,000,000 pixels: 7000 x 7000"),
        (claim_size(PNG, 2**31 - 1, 2**31 - 1), "more than 40,000,000 pixels|cannot be opened"),
    ],
    ids=[
        "empty",
        "text",
        "gif",
        "bmp",
        "half-png",
        "cut-header",
        "half-jpeg",
        "half-webp",
        "0x0",
        "bomb",
        "large",
        "huge",
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        INPUT.decode(Encoded(data))


@pytest.mark.parametrize(("width", "height"), [(24, 16), (7, 50), (100, 40)])
def test_raw_pixels_become_what_the_encoded_image_does(width: int, height: int) -> None:
    image = noise(width, height)
    tensor = INPUT.decode(Array(np.asarray(image)))
    torch.testing.assert_close(tensor, INPUT.decode(Encoded(encode(image))), atol=0, rtol=0)


def test_more_raw_pixels_than_allowed_are_refused() -> None:
    pixels = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (8000, 5001, 3))
    with pytest.raises(InvalidInputError, match="more than 40,000,000 pixels: 5001 x 8000"):
        INPUT.decode(Array(pixels))


def test_normalised_values_may_overshoot_by_one_range_of_colours_and_no_more() -> None:
    values = np.zeros(INPUT.shape, np.float32)
    for inside in (-3.0, 3.0):  # channel 0: colours -1 and 2
        values[0, 0, 0] = inside
        torch.testing.assert_close(INPUT.check_normalised(values), torch.tensor(values))
    for outside in (-3.1, 3.1, np.nan, np.inf):
        values[0, 0, 0] = outside
        with pytest.raises(InvalidInputError, match="normalised, it must lie between -3 and 3"):
            INPUT.check_normalised(values)
