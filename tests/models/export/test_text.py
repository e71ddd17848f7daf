"""Subnets of text encoders, exported, against ONNX Runtime and sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from models import formats
from models.backends.onnx.sessions import options_beside
from models.export import ExportError, Facts, write
from models.export.onnx_file import ONNX
from models.families.exits import Exits, ExitsConfig
from models.inputs.text import TOKENIZER, TextInput
from models.inputs.text_config import TextConfig
from models.nn.head import HeadLayer
from tests.tiny_text import embed, exits_config, randomise, write_tokenizer

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
library = pytest.importorskip("sentence_transformers")

TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12")
FACTS = Facts("1", 0, {})
SMALL = {"depth": 2, "heads": 0.5, "ffn": 0.5, "dim": 8}
WHOLE = {"depth": 4, "heads": 1.0, "ffn": 1.0, "dim": 16}


def made(folder: Path, config: ExitsConfig, pad_is_one: bool = False) -> Exits:
    """Return a model with random weights and a tokenizer."""
    write_tokenizer(folder)
    if pad_is_one:  # as in MPNet's vocabulary
        path = folder / TOKENIZER
        values = json.loads(path.read_text())
        values["model"]["vocab"] |= {"[PAD]": 1, "[UNK]": 0}
        for token in values["added_tokens"]:
            token["id"] = values["model"]["vocab"][token["content"]]
        values["padding"] = None
        path.write_text(json.dumps(values))
    model = Exits("tiny", config)
    randomise(model)
    if pad_is_one:
        state = model.state_dict()
        for name in state:
            if name.endswith("relative_bias"):
                state[name] = state["layers.0.attention.relative_bias"]
        model.load_state_dict(state)
    model.take(TextInput.load(config.text, folder), folder)
    return model.eval().requires_grad_(False)


def served(model: Exits, texts: Sequence[str], subnet: dict[str, Any]) -> Tensor:
    return embed(model, [model.text.encode(text) for text in texts], **subnet)


def by_onnx(folder: Path, texts: Sequence[str]) -> Tensor:
    """Run the file as its card says, with the folder's tokenizer alone."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(list(texts))
    given = {
        "input_ids": np.array([one.ids for one in found]),
        "attention_mask": np.array([one.attention_mask for one in found]),
    }
    path = str(folder / ONNX)
    session = runtime.InferenceSession(path, options_beside(), ["CPUExecutionProvider"])
    (vectors,) = session.run(["sentence_embedding"], given)
    return torch.from_numpy(vectors)


def by_library(folder: Path, texts: Sequence[str]) -> Tensor:
    public = library.SentenceTransformer(str(folder), device="cpu")
    vectors: Tensor = public.encode(list(texts), convert_to_tensor=True)
    return vectors


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "public", "fields"),
    [
        ("post", "bert", {"pooling": "cls"}),
        ("post", "bert", {"projection": 16, "projection_activation": "tanh", "condition": 4}),
        (
            "post",
            "bert",
            {
                "pooling": ("max", "sqrt"),
                "head": (HeadLayer("linear", 20, "gelu"), HeadLayer("norm", 20)),
                "dims": (8, 20),
            },
        ),
        ("relative", "mpnet", {}),
        ("grouped", "starcoder2", {"pooling": "last"}),
        ("gated", "modernbert", {}),
    ],
    ids=["bert", "projection", "head", "mpnet", "starcoder2", "modernbert"],
)
def test_a_subnet_equals_the_served_one_in_both_libraries(
    tmp_path: Path, architecture: str, public: str, fields: dict[str, Any]
) -> None:
    model = made(tmp_path / "model", exits_config(architecture, **fields), public == "mpnet")
    write(model, model.space.check(SMALL), tmp_path / "out", FACTS)
    expected = served(model, TEXTS, SMALL)
    close(by_onnx(tmp_path / "out", TEXTS), expected)
    close(by_library(tmp_path / "out", TEXTS), expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == public
    again = formats.read(tmp_path / "out", "again")
    whole = {"depth": 2, "heads": 1.0, "ffn": 1.0, "dim": 8}
    close(served(again, TEXTS, whole), expected)


def test_a_static_exit_is_one_onnx_file_and_no_public_folder(tmp_path: Path) -> None:
    model = made(tmp_path / "model", exits_config("post", depths=(0, 4)))
    static = {"depth": 0, "heads": 0.5, "ffn": 0.25, "dim": 8}
    remarks = write(model, model.space.check(static), tmp_path / "out", FACTS)
    close(by_onnx(tmp_path / "out", TEXTS), served(model, TEXTS, static))
    assert any("no layout of safetensors" in remark for remark in remarks)
    assert not (tmp_path / "out" / "modules.json").exists()


def test_absent_heads_are_zeros_only_where_the_library_has_no_size_for_them(tmp_path: Path) -> None:
    for architecture, heads, says_so in (("post", 4, True), ("grouped", 2, False)):
        model = made(tmp_path / f"m-{architecture}", exits_config(architecture))
        out = tmp_path / architecture
        remarks = write(model, model.space.check(SMALL), out, FACTS)
        assert json.loads((out / "config.json").read_text())["num_attention_heads"] == heads
        assert any("zeros" in remark for remark in remarks) == says_so
        assert ("zeros" in (out / "README.md").read_text()) == says_so


def test_prompts_go_along_and_those_that_are_no_prefix_are_named(tmp_path: Path) -> None:
    prompts = {"query": "w20 {text}", "odd": "{text} w9"}
    text = TextConfig(max_length=16, prompts=prompts, default_prompt="query")
    model = made(tmp_path / "model", exits_config("post", text=text))
    remarks = write(model, model.space.check(WHOLE), tmp_path / "out", FACTS)
    assert [remark for remark in remarks if "prompt" in remark] == [
        "prompt 'odd' is no prefix, so the files lack it: '{text} w9'"
    ]
    # The server uses the default prompt, and so does the library.
    close(by_library(tmp_path / "out", TEXTS), served(model, TEXTS, WHOLE))


@pytest.mark.parametrize(
    ("architecture", "fields", "why"),
    [
        ("post", {"exit_norm": "own"}, "norm of its own"),
        ("gated", {"exit_norm": "none"}, "not normalised"),
        ("gated", {"encoder": {"kv_heads": 2}}, "no architecture has"),
        ("relative", {}, "no architecture has"),  # a bias of its own in each layer
    ],
    ids=["own norm", "no norm", "grouped", "biases"],
)
def test_what_no_library_has_gets_an_onnx_file_and_its_tensors(
    tmp_path: Path, architecture: str, fields: dict[str, Any], why: str
) -> None:
    model = made(tmp_path / "model", exits_config(architecture, **fields))
    remarks = write(model, model.space.check(SMALL), tmp_path / "out", FACTS)
    assert any(why in remark for remark in remarks)
    close(by_onnx(tmp_path / "out", TEXTS), served(model, TEXTS, SMALL))
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "modules.json").exists()


def test_weights_that_must_be_built_and_full_folders_are_refused(tmp_path: Path) -> None:
    model = made(tmp_path / "model", exits_config("post", bits=(8, 32)))
    few = model.space.check({"bits": 8, **WHOLE})
    with pytest.raises(ExportError, match=r"\{'bits': 8\} needs weights .* allowed: \{'bits': 32"):
        write(model, few, tmp_path / "out", FACTS)
    with pytest.raises(ExportError, match="model is not empty"):
        write(model, model.space.largest, tmp_path / "model", FACTS)
