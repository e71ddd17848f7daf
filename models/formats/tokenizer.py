"""The tokenizer of a public folder, as the public libraries make it.

They take the class that ``tokenizer_config.json`` names, or else that of the architecture. Most
classes replace parts of ``tokenizer.json`` by their own, made from ``tokenizer_config.json`` and
defaults: without ``do_lower_case`` a BERT tokenizer lowers the case, whatever its file says. Such
fields are followed here; parts that a class would replace by others are refused.

Source: tokenization_utils_tokenizers.py, tokenization_utils_base.py and the tokenizers of BERT,
MPNet, RoBERTa, XLM-RoBERTa and GPT-2 in huggingface/transformers 4.57 and 5.23; for the case, the
module ``Transformer`` of sentence-transformers 6.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from models.files import reading
from models.formats.folder import Fields, FormatError, check_tokenizer
from models.formats.known import TOKENIZER_CONFIG, check_known
from models.formats.tokens import Tokens, add_tokens, own_tokens, special_tokens
from models.inputs.text import TOKENIZER

CONFIG = "tokenizer_config.json"
NO_LIMIT = 10**9  # tokenizers without a limit are written with 1e30


class PublicTokenizer(NamedTuple):
    """A tokenizer, and the longest input that its files name; None if they name none."""

    tokenizer: Tokenizer
    max_length: int | None


def read_tokenizer(folder: Path, config: Fields, lowers: bool = False) -> PublicTokenizer:
    """Read the tokenizer of a folder.

    Args:
        folder: With ``tokenizer.json`` and perhaps the files beside it.
        config: Of ``config.json``: its ``model_type`` says which class it is where nobody does.
        lowers: Whether text is to be lowered whatever the tokenizer does.

    Raises:
        FormatError: If a file cannot be read, or says something that is not followed.
    """
    check_tokenizer(folder)
    path = folder / TOKENIZER
    settings = Fields.read_if_there(folder / CONFIG)
    check_known(settings, {*TOKENIZER_CONFIG, *own_tokens(settings)})
    settings.require("split_special_tokens", False)
    settings.require("truncation_side", "right")
    settings.require("fix_mistral_regex", False)
    settings.require("auto_map")
    settings.require("init_inputs", [], ())
    with reading(path, FormatError):
        tokenizer = Tokenizer.from_file(str(path))
        truncation = tokenizer.truncation or {}
        if settings.values.get("truncation_side") is None and truncation.get("direction") == "left":
            raise FormatError(f"{path}: truncation.direction='Left'; allowed: 'Right'")
        kind = _kind(settings, config)
        tokens = Tokens(settings, special_tokens(folder, settings))
        if (rule := _RULES[kind]) is not None:
            rule.apply(path, tokenizer, settings, tokens)
        add_tokens(folder, tokenizer, settings, tokens, rule.defaults if rule else {})
        if rule is not None and rule.ends:
            _check_ends(path, tokenizer, [tokens.named(n, rule.defaults) for n in rule.ends])
        if lowers and not _has_lowercase(tokenizer.normalizer):
            tokenizer.normalizer = _lowered(tokenizer.normalizer)
    return PublicTokenizer(tokenizer, _max_length(settings))


def _max_length(settings: Fields) -> int | None:
    for name in ("model_max_length", "max_len"):
        limit = settings.values.get(name)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
            raise settings.error(name, "a whole number")
        if limit >= NO_LIMIT:
            return None
        return settings.integer(name)
    return None


def _kind(settings: Fields, config: Fields) -> str:
    """Return the class of the tokenizer, in its plain spelling."""
    model_type = config.values.get("model_type")
    if model_type in _ALWAYS_BY_FILE:
        return _BY_FILE
    for fields in (settings, config):
        if fields.values.get("tokenizer_class") is not None:
            fields.pick(
                "tokenizer_class", {name + end: 0 for name in _RULES for end in ("", "Fast")}
            )
            return str(fields.values["tokenizer_class"]).removesuffix("Fast")
    return _OF_MODELS.get(str(model_type), _BY_FILE)


class _Rule(NamedTuple):
    """How a class makes its tokenizer.

    Attributes:
        apply: Puts the parts that the class makes itself in the place of those of the file.
        defaults: Special tokens by role.
        ends: Roles of the tokens around a text; empty where the file decides.
    """

    apply: Callable[[Path, Tokenizer, Fields, Tokens], None]
    defaults: Mapping[str, str]
    ends: tuple[str, ...] = ()


def _like_bert(path: Path, tokenizer: Tokenizer, settings: Fields, tokens: Tokens) -> None:
    _require_state(
        path, "normalizer.type", _state(tokenizer.normalizer).get("type"), "BertNormalizer"
    )
    _require_state(path, "normalizer.clean_text", _state(tokenizer.normalizer)["clean_text"], True)
    _require_state(
        path, "pre_tokenizer", _state(tokenizer.pre_tokenizer), {"type": "BertPreTokenizer"}
    )
    model = tokenizer.model
    _require_state(path, "model.type", type(model).__name__, "WordPiece")
    unknown = tokens.named("unk", _BERT_TOKENS)
    for name, allowed in (
        ("unk_token", unknown),
        ("continuing_subword_prefix", "##"),
        ("max_input_chars_per_word", 100),
    ):
        _require_state(path, f"model.{name}", getattr(model, name), allowed)
    accents = settings.values.get("strip_accents")
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", default=True),
        strip_accents=None if accents is None else settings.flag("strip_accents", default=False),
        lowercase=settings.flag("do_lower_case", default=True),
    )


def _like_roberta(path: Path, tokenizer: Tokenizer, settings: Fields, _: Tokens) -> None:
    _require_state(path, "normalizer", _state(tokenizer.normalizer), {})
    _like_gpt2(path, tokenizer, settings, _)
    _require_state(path, "pre_tokenizer.type", _state(tokenizer.pre_tokenizer)["type"], "ByteLevel")


def _like_gpt2(path: Path, tokenizer: Tokenizer, settings: Fields, _: Tokens) -> None:
    """Follow ``add_prefix_space``; StarCoder2 splits digits as well, in the file alone."""
    model = tokenizer.model
    _require_state(path, "model.type", type(model).__name__, "BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        _require_state(path, f"model.{name}", getattr(model, name) or None, None)
    adds = settings.flag("add_prefix_space", default=False)
    state = _state(tokenizer.pre_tokenizer)
    if state.get("type") == "Sequence":
        *before, state = state["pretokenizers"]
        _require_state(path, "pre_tokenizer", [one["type"] for one in before], ["Digits"])
        _require_state(path, "pre_tokenizer.add_prefix_space", state.get("add_prefix_space"), adds)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds)
    _require_state(path, "pre_tokenizer.type", state.get("type"), "ByteLevel")
    _require_state(path, "pre_tokenizer.use_regex", state.get("use_regex", True), True)


def _like_xlm_roberta(path: Path, tokenizer: Tokenizer, settings: Fields, _: Tokens) -> None:
    made = {
        adds: pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
        )
        for adds, scheme in ((True, "always"), (False, "never"))
    }
    found = _state(tokenizer.pre_tokenizer)
    if found not in map(_state, made.values()):
        _require_state(path, "pre_tokenizer", found, _state(made[True]))
    tokenizer.pre_tokenizer = made[settings.flag("add_prefix_space", default=True)]
    state = _state(tokenizer.normalizer)
    for part in state.get("normalizers", [state] if state else []):
        # These change nothing where text is then split at blanks.
        is_blank = part["type"] == "Strip" or part.get("pattern") == {"Regex": " {2,}"}
        if part["type"] != "Precompiled" and not is_blank:
            raise FormatError(f"{path}: normalizer={part!r}; allowed: Precompiled")
    _require_state(path, "model.type", type(tokenizer.model).__name__, "Unigram")
    model = _state(tokenizer.model)
    _require_state(path, "model.unk_id", model.get("unk_id"), 3)
    _require_state(path, "model.byte_fallback", model.get("byte_fallback", False), False)


_BERT_TOKENS = {
    "unk": "[UNK]",
    "sep": "[SEP]",
    "pad": "[PAD]",
    "cls": "[CLS]",
    "mask": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "cls": "<s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_BERT = _Rule(_like_bert, _BERT_TOKENS, ("cls", "sep"))
_BY_FILE = "PreTrainedTokenizer"
_RULES: dict[str, _Rule | None] = {
    _BY_FILE: None,
    "TokenizersBackend": None,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "MPNetTokenizer": _Rule(_like_bert, {**_ROBERTA_TOKENS, "unk": "[UNK]"}, ("cls", "sep")),
    "RobertaTokenizer": _Rule(_like_roberta, _ROBERTA_TOKENS, ("cls", "sep")),
    "XLMRobertaTokenizer": _Rule(_like_xlm_roberta, _ROBERTA_TOKENS, ("bos", "eos")),
    "GPT2Tokenizer": _Rule(_like_gpt2, {"unk": "<|endoftext|>"}),
}
_OF_MODELS = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "starcoder2": "GPT2Tokenizer",
}
_ALWAYS_BY_FILE = {"modernbert"}


def _check_ends(path: Path, tokenizer: Tokenizer, ends: list[str | None]) -> None:
    """Refuse a file that puts other tokens around a text than its class does."""
    wanted = [None if end is None else tokenizer.token_to_id(end) for end in ends]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = tokenizer.encode("").ids
    if found != wanted or tokenizer.num_special_tokens_to_add(is_pair=False) != len(wanted):
        raise FormatError(f"{path}: post_processor gives {found} for no text; allowed: {ends}")


def _state(part: Any) -> dict[str, Any]:
    state: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return state


def _require_state(path: Path, name: str, found: object, allowed: object) -> None:
    if found != allowed:
        raise FormatError(f"{path}: {name}={found!r}; allowed: {allowed!r}, by its tokenizer_class")


def _has_lowercase(normalizer: Any) -> bool:
    state = _state(normalizer)
    return any(part.get("type") == "Lowercase" for part in state.get("normalizers", [state]))


def _lowered(normalizer: Any) -> Any:
    if normalizer is None:
        return normalizers.Lowercase()
    is_several = isinstance(normalizer, normalizers.Sequence)
    inside: list[Any] = [*normalizer] if is_several else [normalizer]
    return normalizers.Sequence([normalizers.Lowercase(), *inside])
