"""Replaying arrivals in virtual time."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.trace import arrivals
from bench.trace.__main__ import main
from bench.trace.around import Around, Slowness
from bench.trace.simulate import Machine
from bench.trace.tally import Tally, tally
from models.inputs import Item
from models.inputs.text import text_input
from search.timing.profile import LatencyProfile, function_of
from server import catalog
from server.engine.load import Fixed, LoadPolicy, Price
from server.served import Served
from tests.tiny_text import write_text_checkpoint

WHOLE_S = 0.01  # of the whole model, alone
AROUND = Around()
TARGET_S = 0.05


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    served = catalog.load(write_text_checkpoint(tmp_path_factory.mktemp("t") / "tiny")).choose(None)
    item = served.inputs.item({"text": text_input(served.inputs).encode("w1 w2 w3")})
    return Machine(served.timed(profile_of(served, item)), item, AROUND)


def profile_of(served: Served, item: Item) -> LatencyProfile:
    """Return times that follow MACs; of a batch of four each takes half of what one does alone."""
    shapes = served.inputs.shapes(item)
    macs = {
        function_of(step): step.cost.macs
        for row in served.table.rows
        for step in served.elastic.plan(row, shapes).steps
    }
    whole = served.finders.at(shapes).find().cost.macs
    alone_s = np.maximum([of * WHOLE_S / whole for of in macs.values()], 1e-9)
    seconds = alone_s[:, None, None] * np.array([1.0, 2.0])[:, None]
    curves = {function: i for i, function in enumerate(macs)}
    return LatencyProfile(curves, (1, 4), (item["text"].size,), seconds)


def met(machine: Machine, policy: LoadPolicy, load: float, fraction: float | None = None) -> Tally:
    rate = load * 16 / machine.whole_s(16)
    slo_s = 5 * machine.whole_s(1)
    due_s = arrivals.gamma(4, 200, seed=0).at(rate)
    return tally(machine.replay(policy, fraction, due_s, slo_s), slo_s)


def test_a_lone_request_takes_what_the_profile_and_the_surroundings_say(machine: Machine) -> None:
    (outcome,) = machine.replay(Fixed(), None, np.zeros(1), 10.0)
    assert outcome.status == 200
    assert outcome.latency_s == pytest.approx(machine.whole_s(1))


def test_every_request_ends(machine: Machine) -> None:
    found = met(machine, Fixed(), load=5.0)
    assert found.lost == 0
    assert found.attainment < 0.5
    assert found.expired > 0


def test_a_smaller_load_is_met_by_the_whole_model(machine: Machine) -> None:
    found = met(machine, Price(TARGET_S), load=0.05)
    assert (found.attainment, found.slimmed) == (1.0, 0.0)


def test_under_load_the_price_meets_more_than_the_whole_model(machine: Machine) -> None:
    whole = met(machine, Fixed(), load=2.0)
    price = met(machine, Price(TARGET_S), load=2.0)
    assert price.goodput > whole.goodput
    assert price.slimmed


class Careless(Price):
    """Learns nothing of requests that were late."""

    def note(self, client: str, is_late: bool) -> None:
        """Forget it."""


def test_beside_other_work_what_was_late_makes_requests_smaller(machine: Machine) -> None:
    busy = replace(machine, slowness=Slowness(2.0, seed=0))
    rate, slo_s = 16 / machine.whole_s(16), 5 * machine.whole_s(1)
    due_s = arrivals.gamma(1, 600, seed=0).at(rate)
    careful, careless, quiet = (
        tally(one.replay(kind(TARGET_S), None, due_s, slo_s), slo_s)
        for one, kind in ((busy, Price), (busy, Careless), (machine, Careless))
    )
    assert careless.attainment < quiet.attainment - 0.05
    assert 1 - careful.attainment < 0.7 * (1 - careless.attainment)
    assert careful.goodput > careless.goodput


def test_a_mixed_batch_takes_as_long_as_its_distinct_steps(machine: Machine) -> None:
    served = machine.served
    plans = [served.prepare(s.subnet, s.scores) for s in (*served.front[:1], *served.front[-1:])]
    alone = [machine.batch_s([plan]) for plan in plans]
    assert max(alone) < machine.batch_s(plans) <= sum(alone) * (1 + 1e-9)
    assert machine.batch_s([plans[0]] * 4) < 4 * alone[0]


def test_the_same_arrivals_have_the_same_outcomes(machine: Machine) -> None:
    assert met(machine, Price(TARGET_S), 2.0) == met(machine, Price(TARGET_S), 2.0)


def test_a_simulated_run_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_text_checkpoint(tmp_path / "tiny-text")
    options = f"--quick --simulate --tokens 12 --seconds 0.2 --seeds 0,1 --model {checkpoint}"
    files = ["--csv", str(tmp_path / "out.csv"), "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["trace", *options.split(), *files])
    main()
    with (tmp_path / "out.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["seed"], row["load"], row["policy"]) for row in rows[:3]] == [
        ("0", "1.0", "price"),
        ("0", "1.0", "fixed-full"),
        ("0", "2.0", "price"),
    ]
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert all(float(row["goodput"]) <= float(row["bound_goodput"]) + 1e-9 for row in rows)
    found = json.loads((tmp_path / "out.json").read_text())["trace"]
    assert found["capacity"] > 0
    assert "price beside the best other policy" in capsys.readouterr().out
