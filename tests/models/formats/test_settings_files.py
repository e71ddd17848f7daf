"""Every settings file of a public folder is followed as the library follows it, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.models import Unigram
from tokenizers.trainers import UnigramTrainer

from models import checkpoint
from models.families.exits import Exits
from models.formats import FormatError, read, write
from models.inputs.text import TOKENIZER
from tests.models.formats.public import change_json
from tests.tiny_text import embed, randomise

library = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.models")
transformers = pytest.importorskip("transformers")

TEXTS = (
    "A small cat",
    "ÜNÏCÖDÉ Café naïve İstanbul Straße",
    "the Cat sat on the mat. " * 30,
    "漢字 かな 日本",
    "  two   blanks\tand\nlines ",
    "3,000 cats [MASK] <mask> isn't it?",
    " ",
    "a\u0301 e\u0308 \ufffd\0x",
)
_LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?'[]<>äöüßÜÏÖÉéïİ漢字日本かな"
)
_WORDS = ("cat", "Cat", "the", "sat", "mat", "##at", "##mall", "cafe", "caf", "naive", "blanks")
_CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 66,
}


def _word_pieces(special: tuple[str, ...]) -> dict[str, int]:
    pieces = [*special, *_LETTERS, *(f"##{one}" for one in _LETTERS), *_WORDS]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def _bert(**fields: Any) -> Any:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return transformers.BertTokenizer(vocab=_word_pieces(special), **fields)


def _mpnet(**fields: Any) -> Any:
    special = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
    return transformers.MPNetTokenizer(vocab=_word_pieces(special), **fields)


def _bytes() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    pieces = [*special, *sorted(ByteLevel.alphabet()), "at", "cat", "Ġc", "Ġcat"]
    return {piece: i for i, piece in enumerate(pieces)}


_MERGES = [("a", "t"), ("c", "at"), ("Ġ", "c"), ("Ġ", "cat")]


def _roberta(**fields: Any) -> Any:
    return transformers.RobertaTokenizer(vocab=_bytes(), merges=_MERGES, **fields)


def _gpt2(**fields: Any) -> Any:
    vocab = {**_bytes(), "<|endoftext|>": len(_bytes())}
    return transformers.GPT2Tokenizer(vocab=vocab, merges=_MERGES, pad_token="<pad>", **fields)


def _xlm_roberta(**fields: Any) -> Any:
    trained = Tokenizer(Unigram())
    trained.normalizer = normalizers.NFKC()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = UnigramTrainer(
        vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(["▁the ▁Cat ▁sat ▁on ▁mat", *TEXTS[:3]], trainer)
    vocab = [tuple(one) for one in json.loads(trained.to_str())["model"]["vocab"]]
    return transformers.XLMRobertaTokenizer(vocab=vocab, **fields)


def _modernbert(**fields: Any) -> Any:
    inner = _roberta().backend_tokenizer
    named = {"pad_token": "<pad>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **named, **fields)


MAKERS: dict[str, Callable[..., Any]] = {
    "bert": _bert,
    "distilbert": _bert,
    "mpnet": _mpnet,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "starcoder2": _gpt2,
    "modernbert": _modernbert,
}


def make(folder: Path, model_type: str, pooling: str = "mean", **fields: Any) -> Path:
    """Write a folder of the library with random weights, as its own `save` writes it."""
    tokenizer = MAKERS[model_type](**fields)
    config = {**_CONFIG, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if model_type == "distilbert":
        config = {"vocab_size": len(tokenizer), "max_position_embeddings": 66}
        config |= {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}
    ends = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    if model_type in ("modernbert", "starcoder2"):
        config |= ends
    if model_type == "starcoder2":
        config["num_key_value_heads"] = 2
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(model_type, **config), attn_implementation="eager"
    )
    randomise(model)
    model.save_pretrained(folder / "bare")
    tokenizer.save_pretrained(folder / "bare")
    parts = [modules.Transformer(str(folder / "bare"), max_seq_length=48)]
    parts += [modules.Pooling(16, pooling), modules.Normalize()]
    library.SentenceTransformer(modules=parts, device="cpu").save(str(folder / "whole"))
    return folder / "whole"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a folder of each model type, written once."""
    made: dict[str, Path] = {}

    def original(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = make(tmp_path_factory.mktemp(model_type), model_type)
        return made[model_type]

    return original


@pytest.fixture
def copy(originals: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of the folder of a model type, to be changed."""
    return lambda kind: Path(shutil.copytree(originals(kind), tmp_path / "copy"))


def check_equal(folder: Path, **choices: Any) -> Exits:
    """Compare our vectors of all texts with those of the library, as it loads the folder now."""
    public = library.SentenceTransformer(str(folder), device="cpu")
    model = read(folder, "tiny", **choices)
    for name in (None, *model.config.text.prompts):
        # One by one: a row of the library's may depend on the length of others.
        expected = public.encode(
            list(TEXTS), convert_to_tensor=True, prompt_name=name, batch_size=1
        )
        rows = [model.text.encode(text, name, truncate="right") for text in TEXTS]
        found = embed(model, rows, model.config.depths[-1], 16)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    return model


@pytest.mark.parametrize("model_type", MAKERS)
def test_what_the_library_writes_is_read_and_kept(
    copy: Callable[[str], Path], model_type: str, tmp_path: Path
) -> None:
    folder = copy(model_type)
    model = check_equal(folder)
    assert model.config.text.max_length == 48
    write(model, tmp_path / "ours", torch.float32)
    kept = checkpoint.load(tmp_path / "ours").model
    for text in TEXTS:
        found, expected = (one.text.encode(text, truncate="right") for one in (kept, model))
        assert torch.equal(found, expected)


SETTINGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_read_under_each_of_their_names(
    copy: Callable[[str], Path], name: str
) -> None:
    folder = copy("roberta")
    (folder / SETTINGS[0]).unlink()
    (folder / name).write_text(json.dumps({"max_seq_length": 16, "do_lower_case": True}))
    model = check_equal(folder)
    assert model.config.text.max_length == 16
    assert torch.equal(model.text.encode("CAT"), model.text.encode("cat"))


@pytest.mark.parametrize("first", [{}, {"max_seq_length": 9}])
def test_the_first_that_holds_anything_counts(
    copy: Callable[[str], Path], first: dict[str, Any]
) -> None:
    folder = copy("bert")
    (folder / SETTINGS[0]).write_text(json.dumps(first))
    (folder / SETTINGS[1]).write_text(json.dumps({"max_seq_length": 12}))
    (folder / SETTINGS[6]).write_text(json.dumps({"max_seq_length": 20}))
    assert check_equal(folder).config.text.max_length == first.get("max_seq_length", 12)


LIMITS = SETTINGS[0]
TOKENS = "tokenizer_config.json"
MAIN = "config_sentence_transformers.json"
POOLING = "1_Pooling/config.json"
NORM = "2_Normalize/config.json"
FOLLOWED: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", LIMITS, {"do_lower_case": True}),
    ("bert", LIMITS, {"max_seq_length": 5}),
    ("bert", LIMITS, {"model_args": {"attn_implementation": "eager"}}),
    ("bert", LIMITS, {"unpad_inputs": False}),
    ("bert", TOKENS, {"do_lower_case": False}),
    ("bert", TOKENS, {"do_lower_case": False, "strip_accents": True}),
    ("bert", TOKENS, {"do_lower_case": True, "strip_accents": False}),
    ("bert", TOKENS, {"tokenize_chinese_chars": False}),
    ("bert", TOKENS, {"do_lower_case": None, "strip_accents": None}),
    ("bert", TOKENS, {"tokenizer_class": None, "do_lower_case": False}),
    ("bert", TOKENS, {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}),
    ("bert", TOKENS, {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}),
    ("bert", TOKENS, {"model_max_length": 9}),
    ("bert", TOKENS, {"model_max_length": 1e30}),
    ("bert", TOKENS, {"model_max_length": 500}),
    ("bert", TOKENS, {"padding_side": "left"}),
    ("bert", TOKENS, {"clean_up_tokenization_spaces": False, "never_split": None}),
    ("bert", "config.json", {"hidden_act": "relu", "layer_norm_eps": 1e-2}),
    ("bert", "config.json", {"hidden_dropout_prob": 0.5, "id2label": {"0": "x"}}),
    ("bert", "config.json", {"architectures": ["BertForMaskedLM"], "num_beams": 4}),
    ("distilbert", LIMITS, {"do_lower_case": True}),
    ("distilbert", TOKENS, {"do_lower_case": False}),
    ("distilbert", TOKENS, {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}),
    ("mpnet", TOKENS, {"do_lower_case": False, "strip_accents": True}),
    ("mpnet", LIMITS, {"do_lower_case": True, "max_seq_length": 7}),
    ("roberta", TOKENS, {"add_prefix_space": True}),
    ("roberta", TOKENS, {"do_lower_case": True, "strip_accents": True}),  # not of this class
    ("roberta", LIMITS, {"do_lower_case": True}),
    ("xlm-roberta", TOKENS, {"add_prefix_space": False}),
    ("xlm-roberta", LIMITS, {"do_lower_case": True}),
    ("starcoder2", TOKENS, {"add_prefix_space": True}),
    ("starcoder2", LIMITS, {"do_lower_case": True}),
    ("modernbert", LIMITS, {"do_lower_case": True, "max_seq_length": 11}),
    ("modernbert", TOKENS, {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}),
    ("modernbert", "config.json", {"local_attention": 4, "norm_eps": 1e-2}),
    ("bert", MAIN, {"prompts": {"query": "the cat ", "document": None, "x": ""}}),
    ("bert", MAIN, {"prompts": {"q": "A Cat: "}, "default_prompt_name": "q"}),
    ("bert", MAIN, {"requirements": None, "similarity_fn_name": "dot"}),
    ("bert", POOLING, {"pooling_mode": "cls"}),
    ("bert", POOLING, {"pooling_mode": "lasttoken"}),
    ("bert", POOLING, {"pooling_mode": None, "pooling_mode_cls_token": True}),
    ("bert", POOLING, {"include_prompt": False}),  # nothing is left out where there is no prompt
]


@pytest.mark.parametrize(("model_type", "file", "fields"), FOLLOWED, ids=lambda v: str(v)[:48])
def test_a_field_is_followed_as_the_library_follows_it(
    copy: Callable[[str], Path], model_type: str, file: str, fields: dict[str, Any]
) -> None:
    folder = copy(model_type)
    change_json(folder / file, **fields)
    check_equal(folder)


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("bert", LIMITS, {"max_seq_lenght": 5}, "max_seq_lenght=5; allowed: no such field"),
    ("bert", LIMITS, {"max_seq_length": 0}, "max_length=0 must be 3 or more"),
    ("bert", LIMITS, {"max_seq_length": "8"}, "max_seq_length='8'; allowed: a whole number"),
    ("bert", LIMITS, {"query_expansion": {"length": 8}}, "query_expansion=.*; allowed"),
    ("bert", LIMITS, {"processing_kwargs": {"text": {"max_length": 3}}}, "processing_kwargs="),
    ("bert", LIMITS, {"tokenizer_args": {"model_max_length": 8}}, r"tokenizer_args.model_max_le"),
    ("bert", LIMITS, {"config_args": {"num_hidden_layers": 1}}, "config_args.num_hidden_layers=1"),
    ("bert", LIMITS, {"tokenizer_name_or_path": "x"}, "tokenizer_name_or_path='x'"),
    ("bert", LIMITS, {"modality_config": {"message": {"method": "forward"}}}, "modality_config="),
    ("bert", TOKENS, {"truncation_side": "left"}, "truncation_side='left'; allowed: 'right'"),
    ("bert", TOKENS, {"split_special_tokens": True}, "split_special_tokens=True; allowed: False"),
    ("bert", TOKENS, {"tokenizer_class": "T5Tokenizer"}, "tokenizer_class='T5Tokenizer'; allowed"),
    ("bert", TOKENS, {"auto_map": {"AutoTokenizer": "x"}}, "auto_map=.*; allowed: no such field"),
    ("bert", TOKENS, {"unheard": 5}, "unheard=5; allowed: no such field: it is not known to leave"),
    ("bert", TOKENS, {"cls_token": "[SEP]"}, "post_processor gives .* for no text; allowed"),
    ("bert", TOKENS, {"unk_token": "[PAD]"}, r"model.unk_token='\[UNK\]'; allowed: '\[PAD\]'"),
    ("bert", TOKENS, {"model_max_length": "512"}, "model_max_length='512'; allowed: a whole"),
    ("bert", TOKENS, {"do_lower_case": "yes"}, "do_lower_case='yes'; allowed: true or false"),
    ("bert", TOKENS, {"mask_token": "<new>"}, "ids, vocab_size="),
    ("bert", TOKENS, {"added_tokens_decoder": {"5": {"content": "[SEP]"}}}, "token 5 is"),
    (
        "bert",
        "config.json",
        {"quantization_config": {"bits": 4}},
        "quantization_config=.*; allowed",
    ),
    ("bert", "config.json", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map=.*; allowed"),
    ("bert", "config.json", {"pruned_heads": {"0": [1]}}, "pruned_heads=.*; allowed"),
    ("bert", "config.json", {"use_alibi": True}, "use_alibi=True; allowed: no such field"),
    ("bert", "config.json", {"is_causal": True}, "is_causal=True; allowed: False"),
    ("starcoder2", "config.json", {"is_causal": False}, "is_causal=False; allowed: True"),
    ("starcoder2", "config.json", {"layer_scale": 2}, "layer_scale=2; allowed: no such field"),
    ("bert", MAIN, {"model_type": "SparseEncoder"}, "model_type='SparseEncoder'; allowed"),
    ("bert", MAIN, {"truncate_dim": 8}, "truncate_dim=8; allowed: no such field"),
    ("bert", MAIN, {"temperature": 8}, "temperature=8; allowed: no such field"),
    ("bert", MAIN, {"default_prompt_name": 5}, "default_prompt_name=5; allowed: a text"),
    ("bert", POOLING, {"pooling_mode": "sum"}, r"pooling_mode=\['sum'\]; allowed"),
    ("bert", POOLING, {"alpha": 1}, "alpha=1; allowed: no such field"),
    ("bert", NORM, {"module_input_name": "token_embeddings"}, "module_input_name='token_embeddi"),
]


@pytest.mark.parametrize(
    ("model_type", "file", "fields", "message"), REFUSED, ids=lambda v: str(v)[:40]
)
def test_a_field_that_is_not_followed_is_refused_by_name(
    copy: Callable[[str], Path], model_type: str, file: str, fields: dict[str, Any], message: str
) -> None:
    folder = copy(model_type)
    path = folder / file
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    change_json(path, **fields)
    with pytest.raises(FormatError, match=message):
        read(folder, "tiny")


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "processor_config.json", "preprocessor_config.json"]
)
def test_a_file_that_would_change_the_model_is_refused(
    copy: Callable[[str], Path], file: str
) -> None:
    folder = copy("bert")
    (folder / file).write_text("{}")
    with pytest.raises(FormatError, match=f"{file} is not followed; allowed: no such file"):
        read(folder, "tiny")


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / TOKENIZER
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


LEFT = {"direction": "Left", "strategy": "LongestFirst", "stride": 0}
PARTS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("bert", lambda t: t["normalizer"].update(lowercase=False)),  # the class lowers all the same
    ("bert", lambda t: t["normalizer"].update(clean_text=False)),
    ("bert", lambda t: t.update(normalizer={"type": "Lowercase"})),
    ("bert", lambda t: t.update(normalizer=None)),
    ("bert", lambda t: t.update(pre_tokenizer={"type": "Whitespace"})),
    ("bert", lambda t: t["model"].update(max_input_chars_per_word=5)),
    ("bert", lambda t: t["model"].update(continuing_subword_prefix="@")),
    ("bert", lambda t: t.update(post_processor=None)),
    ("bert", lambda t: t.update(truncation={**LEFT, "max_length": 9})),
    ("bert", lambda t: t["added_tokens"].pop()),
    ("roberta", lambda t: t.update(normalizer={"type": "Lowercase"})),
    ("roberta", lambda t: t["pre_tokenizer"].update(add_prefix_space=True)),
    ("roberta", lambda t: t["pre_tokenizer"].update(use_regex=False)),
    ("roberta", lambda t: t["post_processor"].update(cls=["<pad>", 1])),
    ("xlm-roberta", lambda t: t.update(normalizer={"type": "NFKC"})),
    ("xlm-roberta", lambda t: t.update(pre_tokenizer={"type": "WhitespaceSplit"})),
    ("mpnet", lambda t: t["normalizer"].update(handle_chinese_chars=False)),
    ("modernbert", lambda t: t.update(normalizer={"type": "Lowercase"})),
]


@pytest.mark.parametrize(("model_type", "change"), PARTS)
def test_a_part_of_the_tokenizer_means_what_it_means_to_the_library_or_is_refused(
    copy: Callable[[str], Path], model_type: str, change: Callable[[dict[str, Any]], object]
) -> None:
    folder = copy(model_type)
    change_tokenizer(folder, change)
    refused = None
    try:
        read(folder, "tiny")
    except FormatError as error:
        refused = str(error)
    if refused is None:
        check_equal(folder)
    else:
        assert TOKENIZER in refused
        assert "allowed: " in refused


@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("keeps_tokens", [True, False])
def test_a_folder_without_the_files_beside_the_tokenizer_is_read_as_the_library_reads_it(
    copy: Callable[[str], Path], model_type: str, keeps_tokens: bool
) -> None:
    folder = copy(model_type)
    values = json.loads((folder / TOKENS).read_text())
    (folder / TOKENS).unlink()
    change_json(folder / LIMITS, max_seq_length=48)
    if keeps_tokens:  # the older file
        named = {k: v for k, v in values.items() if k.endswith("_token") and isinstance(v, str)}
        (folder / "special_tokens_map.json").write_text(json.dumps(named))
    check_equal(folder)


def test_older_files_of_added_tokens_are_read(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    change_json(folder / TOKENS, added_tokens_decoder=None)
    id_ = json.loads((folder / TOKENIZER).read_text())["model"]["vocab"]["blanks"]
    (folder / "added_tokens.json").write_text(json.dumps({"blanks": id_}))
    check_equal(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"blanks": id_ + 1}))
    with pytest.raises(FormatError, match=r"added_tokens\.json: token .*its id or flags differ"):
        read(folder, "tiny")
