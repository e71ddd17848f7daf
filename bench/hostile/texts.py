"""JSON made up from the OpenAPI document, nulls, odd Unicode and huge texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from bench.hostile.case import Case, Target, post, post_json

_ODD = (
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "\ufeffa",
        "\u202eabc",
        "\u200b" * 500,
        "a\u0301" * 300,
    ),
    *(
        "\U0001f469\u200d\U0001f469\u200d\U0001f467" * 50,
        "\U0010ffff",
        "\ue000",
        "\ufdfd" * 99,
        "\r\n" * 99,
    ),
    *(
        "\u4e2d" * 400,
        "{}",
        "null",
        "NaN",
        "'; drop table",
        "a" * 300,
        "a " * 3000,
        "\\u0000",
        "%s%n",
    ),
)
_WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 1e308, -0.0, 2**63, 2**64, 10**400, [], {}, "", "1", "true"),
    *([None], {"a": None}, [[]], [[[[[[1]]]]]], ["a"] * 300, {str(i): i for i in range(200)}),
)
_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 5000, "0x10", "01", "1.", "+1")
_HUGE_BYTES = (10**5, 10**6, 5 * 10**6, 15 * 10**6)
_DEPTH = 4


def _text(random: Random) -> str:
    if random.random() < 0.5:
        return random.choice(_ODD)
    start = random.choice((0x20, 0x80, 0x600, 0x3000, 0xD7F0, 0xFFF0, 0x1F300, 0xE0000))
    return "".join(chr(start + random.randrange(200)) for _ in range(random.randint(1, 60)))


def _value(random: Random, schema: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value that a schema allows, more or less."""
    if random.random() < 0.08 or depth > _DEPTH:
        return random.choice(_WRONG)
    if "anyOf" in schema:
        return _value(random, random.choice(schema["anyOf"]), depth + 1)
    if "enum" in schema:
        return random.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            return _object(random, schema, depth)
        case "array":
            count = random.choice((0, 1, 1, 2, 3, 20))
            return [_value(random, schema.get("items", {}), depth + 1) for _ in range(count)]
        case "string":
            return _text(random)
        case "integer":
            return random.choice((0, 1, 2, 5, 64, 384, 10**6, -1))
        case "number":
            return random.choice((0.5, 1, 1e-9, 1e9, 2.5e7, -3.5))
        case "boolean":
            return random.random() < 0.5
        case "null":
            return None
    return random.choice(_WRONG)


def _object(random: Random, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    needed = schema.get("required", ())
    found = {}
    for name, field in properties.items():
        if name in needed or random.random() < 0.3:
            found[name] = _value(random, field, depth + 1)
    if not properties and isinstance(more := schema.get("additionalProperties"), dict):
        found = {
            _text(random): _value(random, more, depth + 1) for _ in range(random.randint(0, 3))
        }
    if random.random() < 0.03:
        found[_text(random)] = random.choice(_WRONG)
    return found


def by_schema(random: Random, target: Target) -> Case:
    """Make a body that follows the document, more or less, for a model there is."""
    method, path, schema = random.choice(target.operations)
    body = _value(random, schema)
    models = [name for name in (target.text_model, target.image_model) if name]
    if isinstance(body, dict) and models and random.random() < 0.9:
        body["model"] = random.choice(models)
        if "model" not in str(schema.get("properties", schema)):
            del body["model"]
    address = path.replace("{model}", random.choice(models or ["m"])).replace("{version}", "1")
    return Case(f"by schema, {method} {path}", [post_json(target, address, body)])


def _whole(target: Target) -> dict[str, dict[str, Any]]:
    """Return bodies that are in order, by path."""
    model = {"model": target.text_model}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    pair = {"source_sentence": "a", "sentences": ["b"]}
    return {
        "/v1/embeddings": {**model, "input": "a"},
        "/v1/plan": model,
        "/v1/similarity": {**model, "source": "a", "texts": ["b"]},
        "/v1/rerank": {**model, "query": "a", "documents": ["b"]},
        "/v2/rerank": {**model, "query": "a", "documents": ["b"]},
        "/rerank": {**model, "query": "a", "texts": ["b"]},
        "/embed": {**model, "inputs": "a"},
        "/similarity": {**model, "inputs": pair},
        "/tokenize": {**model, "inputs": "a"},
        "/v2/models/{model}/infer": {"inputs": [tensor]},
    }


def nulls(random: Random, target: Target) -> Case:
    """Make a body in order with null in optional fields; it must be understood."""
    wholes = _whole(target)
    schemas = {path: schema for _, path, schema in target.operations}
    path, body = random.choice(list(wholes.items()))
    schema = schemas.get(path, {})
    for option in schema.get("anyOf", [schema]):
        if set(option.get("required", ())) <= set(body):
            fields = [n for n in option.get("properties", {}) if n not in body]
            chosen = random.sample(fields, random.randint(0, len(fields)))
            body = {**body, **dict.fromkeys(chosen)}
            break
    address = path.replace("{model}", target.text_model or "m")
    wants = (200, 429, 503) if target.text_model else ()
    return Case(f"nulls at {path}", [post_json(target, address, body)], wants=wants)


def odd_texts(random: Random, target: Target) -> Case:
    """Make texts of odd characters for every protocol that takes texts."""
    path, body = random.choice(list(_whole(target).items()))
    spelled = json.dumps(body)
    for plain in ('"a"', '"b"'):
        spelled = spelled.replace(plain, json.dumps(_text(random)))
    if random.random() < 0.2:  # the characters themselves, valid or not
        raw = json.loads(spelled)
        spelled_raw = json.dumps(raw, ensure_ascii=False).encode("utf-8", "surrogatepass")
        address = path.replace("{model}", target.text_model or "m")
        return Case(f"raw text at {path}", [post(target, address, spelled_raw)])
    address = path.replace("{model}", target.text_model or "m")
    return Case(f"odd text at {path}", [post(target, address, spelled.encode())])


def wrong_json(random: Random, target: Target) -> Case:
    """Make JSON that is none, deep, long, doubled, or of numbers beyond all bounds."""
    paths = [path for path in _whole(target) if "{" not in path]
    path = random.choice([*paths, "/v1/infer", "/decode"])
    depth = random.choice((50, 500, 100_000))
    body = random.choice(
        (
            b"",
            b"null",
            b"[" * depth,
            b'{"a":' * depth,
            b'{"input":' + b"[" * depth + b"]" * depth + b"}",
            b'{"input": "a", "input": "b", "model": null}',
            b"\xff\xfe{\x00}\x00",
            b"\xef\xbb\xbf{}",
            b'{"input": "\xff"}',
            random.choice(_NUMBERS).encode(),
            b'{"input": "a", "dimensions": %s}' % random.choice(_NUMBERS).encode(),
            b'{"ids": [%s]}' % b",".join([b"101"] * random.choice((1, 5000, 100_000))),
            b'{"input": [%s]}' % b",".join([b'"a"'] * 50_000),
            b"{" + b",".join(b'"k%d": 1' % i for i in range(random.choice((10, 5000)))) + b"}",
        )
    )
    return Case(f"wrong JSON at {path}: {body[:20]!r}", [post(target, path, body)])


def huge(random: Random, target: Target) -> Case:
    """Make a text of a hundred thousand to fifteen million bytes."""
    path, body = random.choice(list(_whole(target).items()))
    size = random.choice(_HUGE_BYTES)
    unit = random.choice(("a", "a ", "\u4e2d", "word ", "\x00", "\U0001f600", "1"))
    text = unit * (size // len(unit.encode()))
    spelled = json.dumps(body, ensure_ascii=False).replace(
        '"a"', json.dumps(text, ensure_ascii=False)
    )
    address = path.replace("{model}", target.text_model or "m")
    return Case(f"{size} bytes of {unit!r} at {path}", [post(target, address, spelled.encode())])


MAKERS = (by_schema, nulls, odd_texts, wrong_json)
