"""What is asked of the server: models, texts and images, and the requests that carry them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer

from bench.peers.process import HOST, PATH
from models import checkpoint
from models.families.exits import Exits
from models.inputs.image import ImageInput
from models.inputs.text import TOKENIZER
from models.space import Subnet
from models.train import texts
from search.quality.table import TABLE, Cells, Table
from server.settings import data_folder

Content = str | bytes  # a text, or an encoded image
IMAGES = "/v1/infer"
_HALF = 0.75  # of the MACs: below the whole model and above its first half of layers
_MEAN, _SPREAD, _LONGEST = 2.4, 0.45, 30  # words of a text, log-normal


@dataclass(frozen=True)
class Case:
    """One model, asked in one way.

    Attributes:
        name: In the tables.
        checkpoint: Folder of the model.
        model: Its name on the server.
        contents: What is sent, one in a request; all different, as equal inputs are run once.
        fields: Of the request's body, beside the content.
        depth: What the receipts have to say of it; None for models without.
    """

    name: str
    checkpoint: Path
    model: str
    contents: tuple[Content, ...] = field(repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict)
    depth: int | None = None

    def body(self, content: Content) -> bytes:
        """Return the JSON of a request."""
        asked: dict[str, Any] = {"model": self.model, **self.fields}
        if isinstance(content, str):
            asked |= {"input": content, "encoding_format": "base64"}
        else:
            asked |= {"image": base64.b64encode(content).decode()}
        return json.dumps(asked).encode()

    def request(self, port: int, content: Content) -> bytes:
        """Return the bytes of a request."""
        path, body = PATH if isinstance(content, str) else IMAGES, self.body(content)
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def values(answer: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return what was computed: a vector, or the probabilities of every task, one after another."""
    if "data" in answer:
        return np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    outputs = answer["outputs"][0].values()
    return np.array([p for task in outputs for p in task["probabilities"].values()], np.float32)


def halved(source: Path, out: Path) -> Path:
    """Write a copy of a text model that can be had whole or, full width, at half its depth.

    The shipped table prefers deep and narrow subnets at any budget, and a budget is all that a
    request can say, so half the layers in full width have to be the only other offer.
    """
    model = checkpoint.load(source).model
    whole = model.config
    depths = (whole.depths[-1] // 2, whole.depths[-1])
    alone = {"heads": (1.0,), "ffn": (1.0,), "dims": whole.dims[-1:], "pairs": None, "bits": (32,)}
    copy = Exits(f"{model.name}-halved", replace(whole, depths=depths, **alone))
    copy.load_state_dict({name: model.state_dict()[name] for name in copy.state_dict()})
    out.mkdir(parents=True)
    (out / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
    checkpoint.save(out, copy, "exits", torch.float16, [TOKENIZER])
    _growing_table(copy).save(out / TABLE, copy.space)
    checkpoint.cover(out, TABLE)
    return out


def _growing_table(model: Exits) -> Table:
    """Return a table in which each subnet is better than those before it."""
    subnets = tuple(model.space)
    value = np.linspace(0.5, 1, len(subnets))[:, None]
    exact, sound = np.zeros_like(value), np.ones(value.shape, np.bool_)
    cells = Cells((Subnet({}),), value, np.ones(value.shape, np.int64), exact, sound)
    return Table(subnets, dict.fromkeys(model.tasks, cells))


def text_cases(model: Path, copy: Path, contents: list[str]) -> list[Case]:
    """Return a text model, and its halved copy at half its depth."""
    shipped, half = (checkpoint.read_manifest(folder) for folder in (model, copy))
    depths = half.config["depths"]
    return [
        Case(f"{shipped.name} whole", model, shipped.name, tuple(contents), {}, depths[1]),
        Case(
            f"{shipped.name} half",
            copy,
            half.name,
            tuple(contents),
            {"budget": {"fraction": _HALF}},
            depths[0],
        ),
    ]


def image_cases(model: Path, count: int) -> list[Case]:
    """Return an image model asked for all of its tasks, and for one."""
    loaded = checkpoint.load(model).model
    images = _images(loaded.config.input, count)
    task = next(iter(loaded.tasks))
    return [
        Case(f"{loaded.name} all", model, loaded.name, images),
        Case(f"{loaded.name} one", model, loaded.name, images, {"tasks": [task]}),
    ]


def sentences(model: Path, count: int) -> tuple[list[str], str]:
    """Return texts, and what they are: STS-Benchmark's sentences, or without them random words."""
    try:
        rated = texts.stsb(data_folder(), "dev")
    except (ValueError, FileNotFoundError):
        return random_texts(model, count), "random words"
    every = list(dict.fromkeys(text for pair in rated for text in pair[:2]))
    return Random(0).sample(every, count), "sentences of STS-Benchmark"


def random_texts(model: Path, count: int) -> list[str]:
    """Return different texts of words that a model's tokenizer knows, as long as sentences are."""
    known = Tokenizer.from_file(str(model / TOKENIZER)).get_vocab()
    words = sorted(word for word in known if word.isalnum())
    rng = Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        num_words = min(_LONGEST, max(3, round(rng.lognormvariate(_MEAN, _SPREAD))))
        found[" ".join(rng.choices(words, k=num_words))] = None
    return list(found)


def _images(model_input: ImageInput, count: int) -> tuple[bytes, ...]:
    """Return PNGs of the model's size: smooth noise, which packs about as well as photographs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        file = io.BytesIO()
        size = (model_input.width, model_input.height)
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        found.append(file.getvalue())
    return tuple(found)
