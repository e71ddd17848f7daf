"""The arrivals, the accounting, the client and one short run of `python -m bench.trace`."""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from bench.peers.process import Launch, Running, running
from bench.trace import arrivals, texts
from bench.trace.__main__ import main
from bench.trace.arrivals import Arrivals
from bench.trace.bound import Bound
from bench.trace.policies import everyone
from bench.trace.replay import Outcome, replay
from bench.trace.results import COLUMNS, Cell, Estimate, Results, standings
from bench.trace.tally import tally
from server import catalog
from server.settings import Settings
from tests.tiny_text import write_text_checkpoint

# Arrivals


@pytest.mark.parametrize("cv2", [1, 4, 16])
def test_gamma_gaps_have_the_mean_and_the_variation_asked_for(cv2: int) -> None:
    found = arrivals.gamma(cv2, 20_000, seed=3)
    assert np.diff(found.at(50.0)).mean() == pytest.approx(1 / 50)
    assert found.cv2 == pytest.approx(cv2, rel=0.1)
    assert found.name == f"gamma-{cv2}"


def test_gamma_gaps_depend_on_the_seed_alone() -> None:
    first, again, other = (arrivals.gamma(4, 100, seed) for seed in (0, 0, 1))
    assert first.times.tolist() == again.times.tolist() != other.times.tolist()


def test_a_trace_is_its_busiest_part_and_keeps_the_ratios_of_its_gaps() -> None:
    seconds = np.array([0.0, 10, 11, 13, 14, 40, 41, 43, 44, 90])
    found = arrivals.window("t", seconds, 4)  # two parts take 4 s: the first is taken
    assert np.diff(found.times).tolist() == pytest.approx([0.75, 1.5, 0.75])
    assert "from second 10.0 on" in found.origin
    assert found.at(2.0)[-1] == pytest.approx(1.5)  # three mean gaps of half a second


def test_a_usual_part_of_a_trace_is_neither_its_busiest_nor_its_quietest() -> None:
    seconds = np.array([0.0, 1, 2, 10, 15, 20, 100, 110, 120, 121.5])  # parts of 2, 10 and 20 s
    found = arrivals.window("t-median", seconds, 3)
    assert "from second 10.0 on" in found.origin
    assert found.times.tolist() == pytest.approx([0, 1, 2])


def test_a_trace_is_read_to_the_microsecond(tmp_path: Path) -> None:
    folder = tmp_path / "azure-traces"
    folder.mkdir()
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    rows += [f"2023-11-16 23:59:{s},1,1" for s in ("58.0000000", "58.5000019", "59.5000000")]
    rows += ["2023-11-17 00:00:01.5000000,1,1"]
    with gzip.open(folder / "AzureLLMInferenceTrace_code.csv.gz", "wt") as lines:
        lines.write("\n".join(rows) + "\n")
    found = arrivals.make("code", 4, 0, tmp_path)
    assert np.diff(found.times).tolist() == pytest.approx(
        [0.500001 / 3.5 * 3, 0.999999 / 3.5 * 3, 2 / 3.5 * 3], abs=1e-9
    )
    with pytest.raises(ValueError, match="has 4 requests, 5 are needed"):
        arrivals.make("code", 5, 0, tmp_path)
    with pytest.raises(ValueError, match="no arrivals named 'code' without data"):
        arrivals.make("code", 4, 0, None)


# Accounting


def _answer(quality: float, **fields: object) -> bytes:
    times = {"queue": 1.0, "run": 2.0, "total": 4.0, "predicted": 3.0}
    return json.dumps({"receipt": {"quality": quality, "milliseconds": times, **fields}}).encode()


def test_every_request_is_counted_once_and_lost_ones_count_as_missed() -> None:
    found = tally(
        [
            Outcome(200, 0.010, 0.0, _answer(0.8, slimmed=True)),
            Outcome(200, 0.050, 0.0, _answer(1.0, slimmed=False)),
            Outcome(200, 0.051, 0.0, _answer(1.0, slimmed=False)),
            Outcome(429, 0.001, 0.0, b""),
            Outcome(504, 0.060, 0.0, b""),
            Outcome(500, 0.060, 0.0, b"oh"),
            Outcome(None, 9.0, 0.001, b"lost"),
            Outcome(None, 9.0, 0.001, b"lost"),
        ],
        slo_s=0.05,
    )
    counts = (found.met, found.late, found.refused, found.expired, found.other, found.lost)
    assert counts == (2, 1, 1, 1, 1, 2)
    assert found.sent == sum(counts) == 8
    assert found.attainment == 0.25
    assert found.quality == pytest.approx(0.9)
    assert found.goodput == pytest.approx(1.8 / 8)
    assert found.slimmed == 0.5
    assert found.example == "500 b'oh'"
    assert found.p50_ms == pytest.approx(50)
    assert found.predicted == pytest.approx(0.75)


def test_without_an_answer_in_time_there_is_no_quality() -> None:
    found = tally([Outcome(504, 0.1, 0.0, b"")], 0.05)
    assert (found.attainment, found.quality, found.goodput, found.p50_ms) == (0.0, None, 0.0, None)


def test_an_answer_without_a_receipt_is_no_answer_of_ours() -> None:
    with pytest.raises(ValueError, match="no receipt"):
        tally([Outcome(200, 0.01, 0.0, b'{"data": []}')], 0.05)


def _results(*seeds: dict[str, list[float | None]]) -> Results:
    """Return one cell per seed and policy; None is a request that was not answered."""
    pattern = Arrivals("p", "made up", np.arange(4.0))
    found = Results(10.0, 12.0, 0.05, 32, {("p", seed): pattern for seed in range(len(seeds))})
    for seed, qualities in enumerate(seeds):
        for policy, each in qualities.items():
            outcomes = [
                Outcome(504, 0.1, 0.0, b"") if q is None else Outcome(200, 0.01, 0.0, _answer(q))
                for q in each
            ]
            found.cells.append(Cell("p", seed, 2.0, policy, 20.0, 0.2, tally(outcomes, 0.05)))
        found.limits["p", seed, 2.0] = Bound(((1.0, 0.95),))
    return found


def test_the_csv_has_a_line_per_cell_and_leaves_out_what_does_not_exist(tmp_path: Path) -> None:
    found = _results({"price": [0.9, 0.8], "fixed-full": [None, None]})
    found.write_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as lines:
        price, full = csv.DictReader(lines)
    assert tuple(price) == COLUMNS
    assert float(price["goodput"]) == pytest.approx(0.85)
    assert price["slimmed"] == full["quality"] == full["bound_quality"] == ""
    assert (full["policy"], full["expired"], float(full["bound_goodput"])) == (
        "fixed-full",
        "2",
        0.95,
    )
    assert not found.above_bound()


def test_a_cell_above_the_bound_is_reported() -> None:
    found = _results({"price": [1.0, 1.0]})
    assert [cell.policy for cell in found.above_bound()] == ["price"]


def test_the_price_is_compared_with_the_best_other_policy_seed_by_seed() -> None:
    found = _results(
        {"price": [0.9, 0.9], "slackfit": [1.0, None], "fixed-small": [0.8, 0.8]},
        {"price": [0.9, 0.8], "slackfit": [1.0, None], "fixed-small": [0.8, 0.8]},
    )
    (standing,) = standings(found)
    assert standing.other == "fixed-small"
    assert standing.lead == pytest.approx((0.075, 0.025))
    assert standing.lead.sign == 1
    assert standing.of_bound == pytest.approx(0.875 / 0.95)
    assert not standings(_results({"price": [0.9]}))
    assert not standings(_results({"slackfit": [0.9]}))


def test_a_difference_within_noise_is_none() -> None:
    assert Estimate(0.004, None).sign == 0
    assert Estimate(0.02, 0.03).sign == 0
    assert Estimate(-0.02, 0.01).sign == -1
    assert str(Estimate.of([0.5])) == "0.5000"
    assert str(Estimate.of([0.4, 0.6])) == "0.5000 ±0.1000"


# What is asked, and the client


def test_a_policy_asks_for_its_share_of_the_model() -> None:
    chosen = everyone(0.05631234)
    small = json.loads(chosen["fixed-small"].body("m", "text", 0.08))
    assert small["budget"] == {"latency_ms": 80.0, "fraction": 0.056313}
    assert "budget" not in json.loads(chosen["price"].body("m", "text"))
    known = get_args(Settings.model_fields["policy"].annotation)
    for policy in chosen.values():
        command = policy.launch(Path("dir"), Path("kept")).command
        assert command[command.index("--policy") + 1] in known


_SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Odd(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"drop" in body:
            self.close_connection = True
            return
        if b"stall" in body:
            time.sleep(5)
        self.send_response(504 if b"late" in body else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Odd).serve_forever()
"""


@pytest.fixture(scope="module")
def odd_server() -> Iterator[Running]:
    launch = Launch((sys.executable, "-c", _SERVER, "{port}"))
    with running(launch, 1, b"hello") as started:
        yield started


def test_every_request_gets_its_outcome_in_order(odd_server: Running) -> None:
    bodies = [b"good", b"drop", b"late", b"stall", b"good again"]
    found = replay(odd_server, bodies, np.linspace(0, 0.2, 5), patience_s=0.5)
    assert [one.status for one in found] == [200, None, 504, None, 200]
    assert [found[i].content for i in (0, 4)] == [b"good", b"good again"]
    assert found[3].latency_s >= 0.5


def test_a_slow_answer_holds_nobody_back(odd_server: Running) -> None:
    found = replay(odd_server, [b"stall", *[b"good"] * 4], np.zeros(5), patience_s=1.0)
    assert [one.status for one in found] == [None, *[200] * 4]


# The whole


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-text")


def test_texts_differ_and_have_the_length_asked_for(checkpoint: Path) -> None:
    served = catalog.load(checkpoint).choose(None)
    found = texts.make(served, 12, 30, seed=0)
    assert len(set(found)) == 30
    encoded = [served.model.text.encode(text) for text in found]
    assert {len(ids) for ids in encoded} == {12}
    with pytest.raises(texts.TextsError, match="reads 3 to 32 tokens, not 33"):
        texts.make(served, 33, 1, seed=0)


def test_a_short_run_writes_what_it_found(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = {name: tmp_path / f"out.{name}" for name in ("csv", "json")}
    # One server is enough: starting another takes most of the time.
    options = "--quick --tokens 12 --seconds 0.4 --loads 0.2,0.4 --policies fixed-full"
    options += f" --slo-ms 2000 --model {checkpoint}"
    files = [part for name, path in out.items() for part in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", ["trace", *options.split(), *files])
    main()
    with out["csv"].open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["policy"] for row in rows] == ["fixed-full", "fixed-full"]
    for row in rows:
        assert int(row["lost"]) == int(row["other"]) == 0
        assert float(row["attainment"]) > 0.9
        assert math.isclose(float(row["quality"]), 1.0, abs_tol=0.2)
    found = json.loads(out["json"].read_text())["trace"]
    assert len(found["cells"]) == 2
    (pattern,) = found["arrivals"]
    assert (pattern["name"], pattern["seed"]) == ("gamma-4", 0)
    assert pattern["cv2"] > 0


def test_a_plot_without_matplotlib_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.trace.plot.is_possible", lambda: False)
    monkeypatch.setattr(sys, "argv", ["trace", "--plot", "out.png"])
    with pytest.raises(SystemExit):
        main()
    assert "needs matplotlib" in capsys.readouterr().err
