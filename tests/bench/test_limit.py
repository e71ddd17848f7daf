"""`python -m bench.limit` on tiny models: a real server and a real process of the kernel."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bench.limit import bare, cases, tables, threads
from bench.limit.__main__ import Effort, check, measure
from bench.limit.bare import Kernel
from bench.limit.cases import Case
from bench.limit.load import closed_loop
from bench.peers.process import Launch, Running, ServerError, running
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="pins threads to cores"
)
_EFFORT = Effort(rounds=1, seconds=0.1, num_inputs=128, num_alone=20)
_WHOLE = {"depth": 4, "heads": 1.0, "ffn": 1.0, "dim": 16}
_SAYS_THE_SAME = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Parrot(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(sys.argv[2])))
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Parrot).serve_forever()
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_text_checkpoint(tmp_path_factory.mktemp("models") / "text")
    return Case("tiny", folder, "tiny-text", tuple(cases.random_texts(folder, 8)), {}, depth=4)


@pytest.fixture
def says(case: Case) -> Callable[[Any, dict[str, Any]], AbstractContextManager[Running]]:
    """Return a server that always answers with one vector and one subnet."""

    def start(vector: Any, subnet: dict[str, Any]) -> AbstractContextManager[Running]:
        stages = {"decode": 1, "search": 1, "queue": 1, "run": 1, "total": 5}
        answer = {
            "data": [{"embedding": vector}],
            "receipt": {
                "subnet": subnet,
                "fraction": 1.0,
                "tasks": {"similarity": {}},
                "batch_sizes": [2],
                "milliseconds": stages,
            },
        }
        command = (sys.executable, "-c", _SAYS_THE_SAME, "{port}", json.dumps(answer))
        return running(Launch(command), 1, b"")

    return start


@pytest.mark.slow
def test_every_figure_of_server_and_kernel_is_measured(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cores = os.sched_getaffinity(0)
    texts = cases.random_texts(case.checkpoint, _EFFORT.num_inputs)
    (tmp_path / "served").mkdir()
    image = write_checkpoint(tmp_path / "image")
    served, profiles = tmp_path / "served", tmp_path / "profiles"
    found = measure(case.checkpoint, image, texts, _EFFORT, served, profiles)

    names = ["tiny-text whole", "tiny-text half", "tiny all", "tiny one"]
    assert set(found.rounds) == {(n, where) for n in names for where in ("one core", "any core")}
    assert [dict(found.ran[name][0])["depth"] for name in names[:2]] == [4, 2]
    for (one,) in found.rounds.values():
        # How large they are depends on what else the machine does.
        assert min(one.ratio, one.cpu_ratio, one.core) > 0
        assert one.full.batch > one.lone.batch == 1
        assert min(one.lone.p50_ms, one.alone.whole_ms, one.alone.run_ms) > 0
        assert min(one.full.loop_ms, one.full.engine_ms) > 0  # short text needs no decoding thread
        assert 0 < one.lone.stages_ms["run"] < one.lone.stages_ms["total"]
    assert os.sched_getaffinity(0) == cores

    tables.show(found, "")
    assert capsys.readouterr().out.count("any core") == 4 * len(names)
    assert len(json.loads(json.dumps(found.figures()))["rounds"]) == 2 * len(names)


def test_a_server_that_answers_otherwise_than_the_kernel_is_not_timed(
    case: Case, says: Callable[[Any, dict[str, Any]], AbstractContextManager[Running]]
) -> None:
    wrong = "AACAPw==" * 16  # ones, in base64
    with (
        ThreadPoolExecutor(1) as kernels,
        says(wrong, _WHOLE) as server,
        pytest.raises(ServerError, match="not the kernel's"),
    ):
        check(server, kernels, case, "torch")


def test_another_depth_than_asked_for_is_not_timed(
    case: Case, says: Callable[[Any, dict[str, Any]], AbstractContextManager[Running]]
) -> None:
    with (
        ThreadPoolExecutor(1) as kernels,
        says("", _WHOLE | {"depth": 2}) as server,
        pytest.raises(ServerError, match="depth=2 was run, not 4"),
    ):
        check(server, kernels, case, "torch")


def test_another_subnet_under_load_ends_the_run(
    case: Case, says: Callable[[Any, dict[str, Any]], AbstractContextManager[Running]]
) -> None:
    with says("", _WHOLE) as server:
        window = closed_loop(server, case, _WHOLE, 2, 0.05)
        assert window.num_requests >= 20
        assert window.batch == 2
        with pytest.raises(ServerError, match="was run, not"):
            closed_loop(server, case, _WHOLE | {"depth": 2}, 2, 0.05)


def test_the_kernel_runs_the_subnet_it_is_given(case: Case) -> None:
    whole, narrow = (
        Kernel(case.checkpoint, tuple((_WHOLE | {"dim": dim}).items()), ("similarity",), ("w1 w2",))
        for dim in (16, 4)
    )
    assert [len(bare.outputs(kernel, 1)[0]) for kernel in (whole, narrow)] == [16, 4]


def test_cpu_time_is_told_by_thread() -> None:
    before, after = {(1, 1): 1.0, (1, 2): 5.0}, {(1, 1): 1.5, (1, 2): 7.0, (1, 3): 0.25}
    after[1, 4] = 0.5
    spent = threads.spent(1, before, after)
    assert (spent.loop, spent.engine, spent.decoding) == (0.5, 2.0, 0.75)


def test_a_process_beside_is_the_engine_with_all_its_threads() -> None:
    before = {(1, 1): 1.0, (1, 2): 0.0, (8, 8): 2.0, (8, 9): 0.0, (5, 5): 1.0}
    after = {(1, 1): 2.0, (1, 2): 1.5, (8, 8): 3.0, (8, 9): 1.0, (5, 5): 1.25}
    spent = threads.spent(1, before, after)
    assert (spent.loop, spent.engine, spent.decoding) == (1.0, 2.0, 1.75)
