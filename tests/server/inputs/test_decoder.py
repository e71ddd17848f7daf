from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from PIL import Image

from models.inputs import Content, Inputs, InputType, Slot
from models.inputs.content import Text
from models.inputs.image import ImageInput
from models.inputs.text import TextInput
from models.inputs.text_config import TextConfig
from server.errors import InvalidRequestError
from server.inputs.decoder import Decoder
from server.inputs.sources import Passage, Source, Unread, Upload
from tests.server.samples import claiming, image, run, text_of
from tests.tiny_text import write_tokenizer

INPUT = ImageInput(16, 16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
INPUTS = Inputs.of("image", INPUT)
PNG = image()


async def decode(
    decoder: Decoder, sources: Sequence[Source], inputs: Inputs = INPUTS
) -> list[torch.Tensor]:
    """Decode items of one image each."""
    items = await decoder.decode([{"image": source} for source in sources], inputs)
    return [item["image"].value for item in items]


def test_images_come_back_in_order_and_in_shape(decoder: Decoder) -> None:
    async def scenario() -> None:
        files = [image(seed, 10 + seed, 30 - seed) for seed in range(12)]
        uploads = [Upload(f"images[{i}]", file) for i, file in enumerate(files)]
        tensors = await decode(decoder, uploads)
        for file, tensor in zip(files, tensors, strict=True):
            assert tensor.shape == INPUT.shape
            torch.testing.assert_close(tensor, INPUT.from_file(file), atol=0, rtol=0)

    run(scenario())


def test_of_several_wrong_images_the_first_is_named(decoder: Decoder) -> None:
    async def scenario() -> None:
        contents: list[bytes | str] = [PNG, b"wrong", PNG, b"", "%"]
        uploads = [Upload(f"images[{i}]", content) for i, content in enumerate(contents)]
        for _ in range(10):
            with pytest.raises(InvalidRequestError, match=r"images\[1\]: not an image"):
                await decode(decoder, uploads)

    run(scenario())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Inputs.of("text", TextInput.load(TextConfig(max_length=4096), folder))


def test_texts_that_are_read_together_are_those_read_one_by_one(
    decoder: Decoder, texts: Inputs
) -> None:
    passages = [
        Passage(f"documents[{i}]", "w1 w2 " * (1 + 37 * i % 400), truncate="right", max_tokens=300)
        for i in range(40)
    ]

    async def scenario() -> None:
        asked = [{"text": one} for one in passages]
        found = await decoder.decode(asked, texts)
        again = await decoder.decode_until(asked, texts, "", 1.0, time.perf_counter() + 60)
        for one, other, passage in zip(found, again, passages, strict=True):
            assert other is not None
            assert one["text"].digest == other["text"].digest
            assert torch.equal(one["text"].value, passage.decode(texts["text"].type))

    run(scenario())


def test_of_texts_that_are_read_together_the_first_wrong_one_is_named(
    decoder: Decoder, texts: Inputs
) -> None:
    contents = ["w1 " * 100, "w2 " * 100, "w3 " * 5000, ""]
    passages = [Passage(f"documents[{i}]", text) for i, text in enumerate(contents)]

    async def scenario() -> None:
        with pytest.raises(InvalidRequestError, match=r"documents\[2\]: the text has") as caught:
            await decoder.decode([{"text": one} for one in passages], texts)
        assert caught.value.field == "documents[2]"

    run(scenario())


def test_what_was_read_by_a_time_is_had(texts: Inputs) -> None:
    held = threading.Event()

    class Slow(Passage):
        @property
        def text(self) -> Text:
            assert held.wait(20)
            return super().text

    decoder = Decoder(1, time.perf_counter, max_pixels=10**9)
    long = "w1 w2 " * 3000  # a pack of its own, predicted to be read sooner than it is
    passages = [kind("documents", long, truncate="right") for kind in (Passage, Slow)]

    async def scenario() -> None:
        asked = [{"text": one} for one in passages]
        until = time.perf_counter() + 0.5
        found = await decoder.decode_until(asked, texts, "", 1.0, until)
        assert [one is None for one in found] == [False, True]
        held.set()

    run(scenario())
    decoder.close()


def test_decoding_leaves_the_event_loop_free(decoder: Decoder) -> None:
    async def scenario() -> None:
        decoding = asyncio.ensure_future(decode(decoder, [Upload("image", PNG)]))
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
        (tensor,) = await decode(decoder, [Unread(0, read)])
        torch.testing.assert_close(tensor, INPUT.from_file(PNG))
        assert [name.startswith("decode") for name in threads] == [True]

    run(scenario())


def flat(width: int, height: int) -> bytes:
    """Return a file of few bytes and many pixels."""
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def uploads_of(*files: bytes | str) -> list[Upload]:
    return [Upload(f"images[{i}]", file) for i, file in enumerate(files)]


@pytest.mark.parametrize("form", ["bytes", "base64", "url"])
def test_more_pixels_than_a_request_may_have_are_refused_before_any_is_decoded(form: str) -> None:
    decoded: list[Content] = []

    class Watched(ImageInput):
        def decode(self, content: Content) -> torch.Tensor:
            decoded.append(content)
            return super().decode(content)

    watched = Inputs.of("image", Watched(16, 16, INPUT.mean, INPUT.std))
    decoder = Decoder(2, time.perf_counter, max_pixels=1000)
    file = flat(20, 20)
    contents: dict[str, bytes | str] = {
        "bytes": file,
        "base64": text_of(file),
        "url": f"data:image/png;base64,{text_of(file)}",
    }
    content = contents[form]

    async def scenario() -> None:
        message = r"images\[2\]: with this image the request has 1,200 pixels; at most 1,000 are "
        with pytest.raises(
            InvalidRequestError, match=message + r"allowed \(max_pixels\)"
        ) as caught:
            await decode(decoder, uploads_of(*[content] * 64), watched)
        assert caught.value.field == "images[2]"
        assert decoded == []
        assert len(await decode(decoder, uploads_of(content, content), watched)) == 2
        with pytest.raises(InvalidRequestError, match=r"images\[0\]: with this image"):
            await decode(decoder, uploads_of(flat(40, 40)), watched)

    run(scenario())
    decoder.close()


def test_headers_are_believed_only_as_far_as_the_limits(decoder: Decoder) -> None:
    async def scenario() -> None:
        files = [claiming(6000, 6000)] * 3
        with pytest.raises(InvalidRequestError, match=r"images\[2\]: .* 108,000,000 pixels"):
            await decode(decoder, uploads_of(*files))
        with pytest.raises(
            InvalidRequestError, match=r"images\[0\]: .*more than 40,000,000 pixels"
        ):
            await decode(decoder, uploads_of(claiming(8000, 6000)))

    run(scenario())


def test_a_small_image_is_not_behind_all_of_a_large_request() -> None:
    begun: list[str] = []

    class Watched(Upload):
        def decode(self, input_type: InputType) -> Any:
            begun.append(self.field)
            return super().decode(input_type)

        def opened(self) -> Upload:
            return self

    decoder = Decoder(1, time.perf_counter, max_pixels=10**9)
    large = flat(3000, 2000)

    async def scenario() -> None:
        many = [Watched(f"large[{i}]", large, 6_000_000) for i in range(64)]
        asked = asyncio.ensure_future(decode(decoder, many))
        while not begun:
            await asyncio.sleep(0.001)
        for i in range(3):
            count = len(begun)
            await decode(decoder, [Watched(f"small[{i}]", PNG, 256)])
            assert begun.index(f"small[{i}]") <= count + 1
        assert not asked.done()
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        count = len(begun)
        await asyncio.sleep(0.3)
        assert len(begun) == count  # the client has gone

    run(scenario())
    decoder.close()


def test_texts_are_read_while_images_hold_all_other_threads() -> None:
    held, let = threading.Event(), threading.Event()

    def read() -> Upload:
        held.set()
        assert let.wait(20)
        return Upload("image", PNG)

    decoder = Decoder(1, time.perf_counter, max_pixels=10**9)

    async def scenario() -> None:
        images = [Unread(0, read, 40_000_000)] * 4
        asked = asyncio.ensure_future(decode(decoder, images))
        await asyncio.to_thread(held.wait)
        texts = [Passage(f"input[{i}]", "a word " * 200) for i in range(8)]
        assert await decoder.map(lambda text: text.field, texts) == [one.field for one in texts]
        let.set()
        await asked

    run(scenario())
    decoder.close()


def test_times_are_predicted_from_those_that_inputs_took() -> None:
    now = 0.0

    def clock() -> float:
        return now

    decoder = Decoder(1, clock, max_pixels=10**9)

    def work(_: Source) -> None:
        nonlocal now
        now += 0.5

    holding = threading.Event()

    def held(_: Source) -> None:
        assert holding.wait(20)

    async def scenario() -> None:
        images, texts = [Upload("i", PNG, 1_000_000)], [Passage("t", [1] * 1000)]
        for _ in range(300):
            await decoder.map(work, images)
            await decoder.map(work, texts)
        assert decoder.backlog_s == 0
        assert decoder.wait_s(images) == 0.0
        large = asyncio.ensure_future(decoder.map(held, images * 100, "bulk"))
        await asyncio.sleep(0)
        assert decoder.backlog_s == pytest.approx(50, rel=0.01)
        # Its own client's bulk request shares the thread with it, and so does another's.
        assert decoder.wait_s(images, "bulk") == pytest.approx(0.5, rel=0.01)
        assert decoder.wait_s(images * 4, "other") == pytest.approx(2.0, rel=0.01)
        assert decoder.wait_s(texts * 2, "other", weight=4.0) == pytest.approx(0.25, rel=0.01)
        assert decoder.wait_s([Passage("t", "short")], "other") == 0.0
        large.cancel()
        holding.set()

    run(scenario())
    decoder.close()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_pixels_of_a_file_are_guessed_from_its_beginning(form: str) -> None:
    file = image(0, 300, 200, form)
    for content in (file, text_of(file), f"data:image/x;base64,{text_of(file)}"):
        assert Upload("image", content).num_pixels == 60_000
    assert Upload("image", claiming(2**31 - 1, 2**31 - 1)).num_pixels == 40_000_000
    for wrong in (b"", b"hello", "%", "data:nothing", "data:image/png;base64"):
        assert Upload("image", wrong).num_pixels == 6 * len(wrong)


def test_base64_of_any_length_is_undone_as_one(decoder: Decoder) -> None:
    for length in (196_607, 196_608, 196_609, 600_000):
        file = PNG + bytes(length - len(PNG))
        assert Upload("image", text_of(file)).opened().content == file
    for wrong in (text_of(bytes(196_607)) + text_of(bytes(300)), text_of(bytes(400_000)) + "="):
        with pytest.raises(InvalidRequestError, match="image is not base64: "):
            Upload("image", wrong).opened()


def test_a_source_that_items_share_is_read_once(decoder: Decoder) -> None:
    read: list[str] = []

    def source(name: str, seed: int) -> Unread:
        def found() -> Upload:
            read.append(name)
            return Upload(name, image(seed))

        return Unread(0, found)

    inputs = Inputs({"image": Slot(INPUT), "other": Slot(INPUT)})

    async def scenario() -> None:
        shared = source("image", 0)
        asked = [{"image": shared, "other": source(f"other[{i}]", i)} for i in range(5)]
        items = await decoder.decode(asked, inputs)
        assert sorted(read) == ["image", *(f"other[{i}]" for i in range(5))]
        assert len({item["image"].digest for item in items}) == 1
        assert items[0]["other"].digest == items[0]["image"].digest  # equal contents
        assert len({item["other"].digest for item in items}) == 5

    run(scenario())
