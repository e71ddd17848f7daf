"""The client's types are those of the server's JSON."""

from __future__ import annotations

import dataclasses
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

import models.space
import rheostat
from rheostat import answers, index_answers, model_answers, ranking_answers
from server.api.rheostat import (
    classify,
    index_schema,
    models_schema,
    ranking_schema,
    schema,
    text_schema,
)


def shape(kind: Any) -> Any:
    """Return what JSON of a type looks like, whichever library declares it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return frozenset(shape(one) for one in arguments)
    if origin is not None and origin is not Literal:
        return (origin, *map(shape, arguments))
    names = []
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        names = list(kind.model_fields)
    if not names:
        return kind
    hints = get_type_hints(kind)
    return frozenset((name, shape(hints[name])) for name in names)


PAIRS = [
    (rheostat.Budget, schema.BudgetBody),
    (rheostat.Cascade, text_schema.CascadeBody),
    (rheostat.Receipt, schema.Receipt),
    (answers.PlanAnswer, schema.PlanAnswer),
    (rheostat.SimilarityAnswer, ranking_schema.SimilarityAnswer),
    (rheostat.RerankAnswer, ranking_schema.RerankAnswer),
    (rheostat.IndexDetail, index_schema.IndexAnswer),
    (rheostat.ClassifyAnswer, classify.ClassifyAnswer),
    (rheostat.NeighborsAnswer, index_schema.NeighborsAnswer),
    (rheostat.ModelEntry, models_schema.ModelEntry),
    (rheostat.ModelDetail, models_schema.ModelDetail),
]


@pytest.mark.parametrize(("ours", "servers"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_type_has_the_fields_of_the_servers_json(ours: type, servers: type) -> None:
    assert shape(ours) == shape(servers)


def test_an_output_has_the_fields_of_every_kind_of_task() -> None:
    kinds = get_args(schema.TaskOutput)
    fields = {(name, shape(of)) for kind in kinds for name, of in get_type_hints(kind).items()}
    servers = {(name, of) for name, of in fields if name != "model_config"}
    names = {name for kind in kinds for name in kind.model_fields}
    ours = {
        field.name: get_type_hints(rheostat.TaskOutput)[field.name]
        for field in dataclasses.fields(rheostat.TaskOutput)
    }
    assert ours.keys() == names
    for name, of in ours.items():
        kind = float if name == "score" else of  # None where there is none
        assert (name, shape(kind)) in servers
    read = {field.name for field in dataclasses.fields(rheostat.InferAnswer)}
    assert read == set(schema.InferAnswer.model_fields)


@pytest.mark.parametrize(
    ("ours", "servers"),
    [
        (answers.EmbeddingsAnswer, text_schema.EmbeddingsAnswer),
        (answers.EmbeddingEntry, text_schema.EmbeddingEntry),
        (model_answers.ModelList, models_schema.ModelList),
    ],
)
def test_what_is_read_in_part_is_there(ours: Any, servers: type[BaseModel]) -> None:
    assert {field.name for field in dataclasses.fields(ours)} < set(servers.model_fields)


def test_a_type_that_differs_would_be_found() -> None:
    assert shape(rheostat.Receipt) != shape(schema.PlanReceipt)
    assert shape(int | None) != shape(int)


def test_values_on_axes_are_those_of_the_models() -> None:
    assert rheostat.Value == models.space.Value


def test_every_type_of_an_answer_is_exported() -> None:
    exported = {name for name in rheostat.__all__ if hasattr(rheostat, name)}
    assert exported == set(rheostat.__all__)
    read_inside = {"PlanAnswer", "EmbeddingsAnswer", "EmbeddingEntry", "ModelList", "IndexList"}
    for module in (answers, index_answers, model_answers, ranking_answers):
        declared = {
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__
        }
        assert declared - read_inside <= exported
