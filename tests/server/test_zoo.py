"""The models that come with the package can be served and are worth what their cards say."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor

from models.backends.torch import TorchBackend
from models.core import plan_cost
from models.nn.ragged import Ragged
from models.space import Subnet
from models.variants import all_choices, build, choices_of
from server import catalog
from server.catalog import Catalog
from server.served import Served
from server.settings import Settings

CLOSE = ("A man is playing a guitar.", "Someone plays the guitar.")
FAR = "The stock market fell sharply on Monday."
SEARCHES = (
    (
        "Remove duplicates and keep the order.",
        "def unique(xs):\n    return list(dict.fromkeys(xs))",
    ),
    (
        "Return the mean squared error of two arrays.",
        "def mse(a, b):\n    diff = np.asarray(a) - np.asarray(b)\n    return np.mean(diff ** 2)",
    ),
    (
        "Read a JSON file.",
        "def load(path):\n    with open(path) as file:\n        return json.load(file)",
    ),
)


@cache
def zoo() -> Catalog:
    return catalog.load(Settings().models_folder)


@pytest.fixture
def minilm() -> Served:
    return zoo().choose("minilm-2d")


def test_all_models_are_there_and_requests_that_name_none_get_the_general_ones() -> None:
    settings = Settings()
    models = catalog.load(settings.models_folder, settings.defaults)
    assert set(models) == {"cifar100-mtl", "minilm-2d", "minilm-elastic", "pycode-exits"}
    assert models.choose(None, "text").name == "minilm-2d"
    assert models.choose(None, "image").name == "cifar100-mtl"


def test_code_is_found_by_what_it_does_from_the_second_exit_on() -> None:
    pycode = zoo().choose("pycode-exits")
    backend, model = TorchBackend(), pycode.model
    backend.prepare(model)
    rows = [model.text.encode(text) for pair in SEARCHES for text in pair]
    tokens = Ragged.pack(rows)
    largest = model.space.largest
    for depth in (2, 3, 4, 5, 6):
        plan = model.plan(
            model.space.check(largest | {"depth": depth}), {"text": (tokens.layout.longest,)}
        )
        (vectors,) = backend.run(plan, {"text": tokens}).values()
        queries, functions = vectors[0::2], vectors[1::2]
        assert (queries @ functions.T).argmax(1).tolist() == [0, 1, 2], depth


def test_every_exit_and_dimension_tells_close_sentences_from_far_ones(minilm: Served) -> None:
    backend, model = TorchBackend(), minilm.model
    backend.prepare(model)
    variants = {choices: build(model, choices) for choices in all_choices(model.space)}
    tokens = Ragged.pack([model.text.encode(text) for text in (*CLOSE, FAR)])
    for subnet in model.space:
        variant = variants[choices_of(model.space, subnet)]
        plan = variant.plan(subnet, {"text": (tokens.layout.longest,)})
        (vectors,) = backend.run(plan, {"text": tokens}).values()
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2, subnet


def test_half_the_layers_and_a_sixth_of_the_dimensions_keep_most_of_the_quality(
    minilm: Served,
) -> None:
    cells = minilm.table.cells["similarity"]
    score = dict(zip(minilm.table.rows, cells.value[:, 0], strict=True))
    largest = minilm.elastic.space.largest
    for smaller, kept in (({"depth": 3}, 0.94), ({"dim": 64}, 0.96), ({"depth": 1}, 0.88)):
        assert score[minilm.elastic.space.check(largest | smaller)] > kept * score[largest]


def test_one_index_of_whole_vectors_answers_queries_at_every_budget() -> None:
    elastic = zoo().choose("minilm-elastic")
    model, backend = elastic.model, TorchBackend()
    backend.prepare(model)
    documents = Ragged.pack([model.base.text.encode(text) for text in (CLOSE[1], FAR)])
    query = Ragged.pack([model.base.text.encode(CLOSE[0])])
    variants = {choices: build(model, choices) for choices in all_choices(model.space)}

    def vectors(tokens: Ragged, subnet: Subnet) -> Tensor:
        shapes = {"text": (tokens.layout.longest,)}
        plan = variants[choices_of(model.space, subnet)].plan(subnet, shapes, ["similarity"])
        return backend.run(plan, {"text": tokens})["similarity"]

    index = vectors(documents, model.space.largest)
    for subnet in model.space:
        close, far = (vectors(query, subnet) @ index.T)[0]
        assert close > far + 0.2, subnet
    assert len({elastic.space_of(point.subnet) for point in elastic.front}) == 1


def test_a_floor_on_quality_saves_compute(minilm: Served) -> None:
    cheap = next(one for one in minilm.front if one.quality > 0.97)
    assert (
        cheap.cost.flops
        < 0.8
        * plan_cost(
            minilm.elastic.plan(minilm.elastic.space.largest, minilm.inputs.plan_shapes())
        ).flops
    )
