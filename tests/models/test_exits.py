"""What only the multi-exit family promises; `tests.conformance` has what all families do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import checkpoint
from models.checkpoint import CheckpointError
from models.core import Shapes
from models.families.exits import Exits
from models.inputs.text import TOKENIZER
from models.inputs.text_config import TextConfig
from models.nn.ragged import Ragged
from models.space import Subnet
from tests.tiny_text import (
    ARCHITECTURES,
    embed,
    exits_config,
    tiny_exits,
    token_rows,
    write_tokenizer,
)

EVERY = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
PAIRS = ((1, 4), (2, 8), (4, 16))


SHAPES = {"text": (5,)}


@EVERY
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_an_answer_is_a_unit_vector_cut_before_it_is_normalised(
    architecture: str, pooling: str
) -> None:
    model = tiny_exits(architecture, pooling=pooling)
    rows = token_rows()
    whole = embed(model, rows, 2, 16)
    assert whole.shape == (len(rows), 16)
    for dim in (4, 8):
        found = embed(model, rows, 2, dim)
        torch.testing.assert_close(found, F.normalize(whole[:, :dim], dim=1))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(rows)))


def test_a_deeper_plan_extends_a_shallower_one() -> None:
    model = tiny_exits()
    shallow, deep = (model.plan(model.space.largest | {"depth": depth}, SHAPES) for depth in (2, 4))
    inner = [step.identity for step in shallow.steps[:-1]]
    assert [step.identity for step in deep][: len(inner)] == inner
    assert len(shallow.identities | deep.identities) == 1 + 4 + 2


def test_other_widths_share_no_layer_with_the_whole() -> None:
    model = tiny_exits()
    plans = [model.plan(model.space.largest | {"ffn": ffn}, SHAPES) for ffn in (0.5, 1.0)]
    assert len(plans[0].identities | plans[1].identities) == 1 + 2 * (4 + 1)


def test_each_task_is_answered_by_the_same_vector() -> None:
    model = tiny_exits(tasks={"similarity": "spearman", "search": "ndcg@10"})
    assert [task.metric for task in model.tasks.values()] == ["spearman", "ndcg@10"]
    plan = model.plan(model.space.largest, SHAPES)
    assert list(plan.answers) == ["similarity", "search"]
    assert plan.answers["similarity"] is plan.answers["search"]
    one = model.plan(model.space.largest, SHAPES, ["search"])
    assert list(one.answers) == ["search"]


def hidden(model: Exits, rows: list[Tensor], depth: int) -> list[Tensor]:
    """Return each row's output of a layer, without any norm after it."""
    x = model.embedding(Ragged.pack(rows))
    for layer in list(model.layers)[:depth]:
        x = layer(model.config.encoder.kv_heads, model.config.encoder.ffn, x)
    return [part.values for part in (x.select([i]) for i in range(len(rows)))]


@pytest.mark.parametrize("exit_norm", ["none", "final", "last", "own"])
def test_the_norm_of_an_exit_is_the_one_chosen(exit_norm: str) -> None:
    model = tiny_exits("gated", exit_norm=exit_norm)
    rows = token_rows()
    for depth in model.config.depths:
        norm: Any = torch.nn.Identity()
        if exit_norm == "final" or (exit_norm == "last" and depth == 4):
            norm = model.final_norm
        elif exit_norm == "own":
            norm = model.get_submodule(f"exits.{depth}.norm")
        expected = torch.stack([norm(states).mean(0) for states in hidden(model, rows, depth)])
        found = embed(model, rows, depth, 16)
        torch.testing.assert_close(found, F.normalize(expected, dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("condition", [0, 3])
def test_an_exit_projects_the_pooled_state_joined_to_its_condition(
    activation: str, condition: int
) -> None:
    fields: dict[str, Any] = {"condition": condition, "projection_activation": activation}
    model = tiny_exits("grouped", projection=12, dims=(4, 12), pooling="last", **fields)
    rows = token_rows()
    for depth in model.config.depths:
        exit_ = model.exits[str(depth)]
        states = hidden(model, rows, depth)
        assert model.final_norm is not None
        pooled = torch.stack([model.final_norm(state)[-1] for state in states])
        if condition:
            assert isinstance(exit_.condition, Tensor)
            pooled = torch.cat((pooled, exit_.condition.repeat(len(rows), 1)), dim=1)
        expected = model.projection(depth)(pooled)
        if activation == "tanh":
            expected = expected.tanh()
        for dim in (4, 12):
            found = embed(model, rows, depth, dim)
            torch.testing.assert_close(found, F.normalize(expected[:, :dim], dim=1))


def test_pairs_restrict_the_space() -> None:
    model = tiny_exits(pairs=PAIRS, heads=(1.0,))
    assert {(subnet["depth"], subnet["dim"]) for subnet in model.space} == set(PAIRS)
    assert len(list(model.space)) == len(PAIRS) * 3
    refused = model.space.largest | {"dim": 4}
    with pytest.raises(ValueError, match="do not go together"):
        model.plan(refused, SHAPES)


@pytest.mark.parametrize(
    ("subnet", "shapes", "tasks", "message"),
    [
        ({"dim": 5}, SHAPES, None, r"dim=5 is not allowed; one of \[4, 8, 16\]"),
        ({"depth": 3}, SHAPES, None, r"depth=3 is not allowed; one of \[1, 2, 4\]"),
        ({"width": 1}, SHAPES, None, "unknown axis 'width'"),
        ({}, {"text": (0,)}, None, r"shapes={'text': \(0,\)} must be .*, 1 to 32"),
        ({}, {"text": (33,)}, None, r"shapes={'text': \(33,\)} must be"),
        ({}, {"text": (1, 5)}, None, r"shapes={'text': \(1, 5\)} must be"),
        ({}, {"image": (5,)}, None, r"shapes={'image': \(5,\)} must be {'text': \(tokens,\)}"),
        ({}, {}, None, r"shapes={} must be"),
        ({}, SHAPES, ["ranking"], r"unknown task 'ranking'; one of \['similarity'\]"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    subnet: dict[str, int], shapes: Shapes, tasks: list[str] | None, message: str
) -> None:
    model = tiny_exits()
    with pytest.raises(ValueError, match=message):
        model.plan(Subnet({**model.space.largest, **subnet}), shapes, tasks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1, 2)}, r"depths=\[1, 2\] must be 0 or more, ascend and end at 4"),
        ({"depths": (2, 1, 4)}, "depths"),
        ({"dims": (4,)}, r"dims=\[4\] must be positive, ascend and end at 16"),
        ({"projection": 12}, r"dims=\[4, 8, 16\] must be positive, ascend and end at 12"),
        ({"heads": (0.3, 1.0)}, r"heads=0.3 of 4 is not a whole number"),
        ({"ffn": (0.1, 1.0)}, r"ffn=0.1 of 24 is not a whole number"),
        ({"tasks": {}}, "tasks is empty"),
        ({"pairs": ((1, 4), (3, 8), (4, 16))}, r"\(3, 8\) is not among depths and dims"),
        ({"pairs": ((1, 4), (2, 8))}, r"must contain \(4, 16\)"),
        ({"pairs": ()}, r"must contain \(1, 4\)"),
        ({"exit_norm": "final"}, "a post-norm encoder has no final norm"),
        ({"condition": 3}, "condition=3 needs a projection"),
        ({"projection_activation": "tanh"}, "projection_activation='tanh' needs a projection"),
        ({"text": TextConfig(max_length=33)}, "text.max_length=33 exceeds encoder.max_positions"),
    ],
    ids=lambda value: str(value)[:32],
)
def test_a_configuration_that_cannot_be_built_is_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        exits_config("post", **({"dims": (4, 8, 16)} | fields))


def save(folder: Path, model: Exits) -> Path:
    write_tokenizer(folder)
    checkpoint.save(folder, model, "exits", torch.float32, files=(TOKENIZER,))
    return folder


@EVERY
def test_a_checkpoint_gives_back_the_model_with_its_tokenizer(
    tmp_path: Path, architecture: str
) -> None:
    model = tiny_exits(architecture, heads=(0.25, 1.0) if architecture == "post" else (0.5, 1.0))
    loaded = checkpoint.load(save(tmp_path, model))
    assert TOKENIZER in loaded.manifest.files
    assert loaded.model.config == model.config
    rows = [loaded.model.text.encode(text) for text in ("w0 w1", "w2")]
    found = embed(loaded.model, rows, 4, 16)
    torch.testing.assert_close(found, embed(model, rows, 4, 16), atol=0, rtol=0)


def test_pairs_and_heads_survive_a_checkpoint(tmp_path: Path) -> None:
    pairs = ((1, 4), (2, 8), (4, 12))
    fields: dict[str, Any] = {"projection": 12, "condition": 3, "projection_activation": "tanh"}
    model = tiny_exits("gated", dims=(4, 8, 12), pairs=pairs, exit_norm="own", **fields)
    loaded = checkpoint.load(save(tmp_path, model)).model
    assert loaded.config == model.config
    assert list(loaded.space) == list(model.space)
    rows = token_rows()
    assert torch.equal(embed(loaded, rows, 2, 8), embed(model, rows, 2, 8))


def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, tiny_exits(), "exits")
    with pytest.raises(CheckpointError, match=f"files does not name {TOKENIZER}"):
        checkpoint.load(tmp_path)
    save(tmp_path, tiny_exits())
    path = tmp_path / TOKENIZER
    path.write_text(path.read_text().replace("w7", "x7"))
    with pytest.raises(CheckpointError, match=f"{TOKENIZER}: altered"):
        checkpoint.load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{TOKENIZER} does not exist"):
        checkpoint.load(tmp_path)


def test_a_tokenizer_with_ids_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, tiny_exits("post", {"vocab_size": 59}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: 60 ids, vocab_size=59"):
        checkpoint.load(folder)


def test_a_model_without_a_tokenizer_says_so() -> None:
    with pytest.raises(RuntimeError, match="tiny has no tokenizer yet"):
        _ = tiny_exits().inputs
