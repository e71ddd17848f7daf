"""A text checkpoint measured for several tasks, and what requests then choose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from models import checkpoint
from models.train.texts import ScoredPair
from search.offline.measuring_tasks import measure_tasks
from search.offline.text_tasks import TaskData
from search.quality.embeddings import RankingQuality, SimilarityQuality
from search.quality.neighbours import NeighboursQuality
from search.quality.table import TABLE, Table
from server.app import create_app
from server.settings import Settings
from tests.search.offline.test_laddering import write_member
from tests.search.offline.test_static_exit import write_pruned
from tests.search.quality.test_sides import DATA

PAIRS = [ScoredPair(f"w{i} w{i + 1} w3", f"w{i + 2} w5 w{i}", -(i % 5)) for i in range(12)]
LABELLED = [(f"w{i} w{i % 5}", str(i % 2)) for i in range(20)]
EVERY = [
    TaskData("similarity", SimilarityQuality(PAIRS), "spearman"),
    TaskData("retrieval", RankingQuality(DATA, "ndcg@10"), "ndcg@10"),
    TaskData("intent", NeighboursQuality(LABELLED), "accuracy"),
]
NAMES = ["similarity", "retrieval", "retrieval:query", "retrieval:document", "intent"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_pruned(tmp_path_factory.mktemp("models") / "pruned")
    measure_tasks(folder, EVERY)
    return folder


def test_every_subnet_gets_a_measured_score_for_every_task_and_side(folder: Path) -> None:
    loaded = checkpoint.load(folder)
    assert list(loaded.model.tasks) == NAMES
    table = Table.load(folder / TABLE, loaded.model.space, loaded.model.tasks)
    assert set(table.rows) == set(loaded.model.space)
    for cells in table.cells.values():
        assert cells.measured.all()
    sides = [table.cells[f"retrieval:{side}"].value for side in ("query", "document")]
    assert sides[0][-1] == sides[1][-1] == table.cells["retrieval"].value[-1]
    assert (sides[0] != sides[1]).any()


def test_fewer_bits_are_never_expected_to_be_better(folder: Path) -> None:
    loaded = checkpoint.load(folder)
    table = Table.load(folder / TABLE, loaded.model.space, loaded.model.tasks)
    place = {row: r for r, row in enumerate(table.rows)}
    for cells in table.cells.values():
        for row, r in place.items():
            whole = place[row | {"bits": 32}]
            assert cells.expected[r, 0] <= cells.expected[whole, 0]


def test_a_checkpoint_without_texts_and_a_task_of_two_metrics_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="family 'slimmable' embeds no texts"):
        measure_tasks(write_member(tmp_path / "image", 1), EVERY)
    wrong = [ScoredPair(a, b, -score) for a, b, score in PAIRS]
    bad = TaskData("similarity", SimilarityQuality(wrong), "spearman")
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="task 'similarity': the whole model scores -0"):
        measure_tasks(folder, [bad])
    assert (folder / "manifest.json").read_bytes() == before
    mixed = TaskData("similarity", NeighboursQuality(LABELLED), "accuracy")
    with pytest.raises(ValueError, match="task 'similarity' is measured by spearman and accuracy"):
        measure_tasks(folder, [EVERY[0], mixed])


def test_a_task_of_two_sets_has_their_mean(tmp_path: Path) -> None:
    folder = write_pruned(tmp_path / "pruned")
    sets = [
        TaskData("similarity", SimilarityQuality(own), "spearman") for own in (PAIRS, PAIRS[:9])
    ]
    tables = []
    for data in ([sets[0]], [sets[1]], sets):
        measure_tasks(folder, data)
        loaded = checkpoint.load(folder)
        tables.append(Table.load(folder / TABLE, loaded.model.space, loaded.model.tasks))
    first, second, both = (table.cells["similarity"] for table in tables)
    assert both.value == pytest.approx((first.value + second.value) / 2, abs=1e-6)
    assert both.n == pytest.approx(first.n + second.n)
    assert both.known_error[-1] == 0


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    """A server of the checkpoint with scores that tell tasks and sides apart."""
    loaded = checkpoint.load(folder)
    table = Table.load(folder / TABLE, loaded.model.space, loaded.model.tasks)
    for number, (task, cells) in enumerate(table.cells.items()):
        for r, row in enumerate(table.rows):
            # At the same cost of two cuts each task favours another.
            worth = 0.9 if row["keep"] == (0.45, 0.5)[number % 2] else 0.5
            cells.value[r] = 1.0 if row["keep"] == 1 else worth
            if cells.smoothed is not None:
                cells.smoothed[r] = cells.value[r]
        assert task in NAMES
    table.save(folder / TABLE, loaded.model.space)
    checkpoint.cover(folder, TABLE)
    with TestClient(create_app(Settings(models=folder.parent, policy="fixed"))) as found:
        yield found


def embedded(client: TestClient, **fields: object) -> dict[str, object]:
    answer = client.post("/v1/embeddings", json={"input": ["w1 w2", "w3"], **fields}).json()
    assert len(answer["data"]) == 2
    receipt: dict[str, object] = answer["receipt"]
    return receipt


def test_a_preference_for_another_task_picks_another_subnet_at_the_same_budget(
    client: TestClient,
) -> None:
    budget = {"fraction": 0.9}
    found = {
        task: embedded(client, budget=budget, preferences={task: 1})["subnet"]
        for task in ("similarity", "retrieval")
    }
    assert found["similarity"]["keep"] == 0.45  # type: ignore[index]
    assert found["retrieval"]["keep"] == 0.5  # type: ignore[index]


def test_the_side_of_the_texts_decides_which_scores_count(client: TestClient) -> None:
    budget = {"fraction": 0.9}
    for fields, task, keep in (
        ({"side": "query"}, "retrieval:query", 0.45),
        ({"side": "document"}, "retrieval:document", 0.5),
        ({"input_type": "search_query"}, "retrieval:query", 0.45),
    ):
        receipt = embedded(client, budget=budget, preferences={"retrieval": 1}, **fields)
        assert task in receipt["tasks"]  # type: ignore[operator]
        assert "retrieval" not in receipt["tasks"]  # type: ignore[operator]
        assert receipt["subnet"]["keep"] == keep  # type: ignore[index]
    plain = embedded(client, budget=budget)
    assert list(plain["tasks"]) == ["similarity", "retrieval", "intent"]  # type: ignore[call-overload]


def test_an_unknown_side_is_refused_by_name(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": "w1", "side": "both"})
    assert answer.status_code == 400
    assert "side" in answer.json()["error"]["message"]


def test_plan_and_models_say_which_vectors_may_be_compared(client: TestClient) -> None:
    def space(**fields: object) -> str:
        found: str = client.post("/v1/plan", json=fields).json()["receipt"]["space"]
        return found

    whole, cut = space(), space(budget={"fraction": 0.5})
    assert whole == cut
    detail = client.get("/v1/models/tiny").json()
    by_id = {one["space"]: one for one in detail["spaces"]}
    assert by_id[whole]["choices"] == {"dim": 16}
    assert len(by_id) == 2
    assert sum(one["num_subnets"] for one in by_id.values()) == 2 * 4 * 2
    assert {point["space"] for point in detail["front"]} <= by_id.keys()
