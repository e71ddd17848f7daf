"""Rheostat's /v1/embeddings beside other servers and libraries, each at its best.

Every peer gets a virtual environment of its own, made on the first run (minutes, a gigabyte each).
All servers run on the same MiniLM, one at a time, on the same number of threads. The first turn of
a server checks its vectors: those in float32 must agree with sentence-transformers' before anything
is timed; those of int8 and of smaller subnets are scored on STS-Benchmark's test split and on
SciFact. Timed requests are sentences of STS-Benchmark, one in a request. A checkpoint trained to be
elastic comes in beside them, whole and with a budget.

A round starts and loads every server once, and every second round goes backwards, so that a slow
moment does not always hit the same one. A load that other processes disturb is repeated. Tables
show the smallest, the median and the largest round. With --resume a run goes on with what the file
of --json holds; --minutes ends it between turns.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench import report
from bench.peers import contenders, sameness, servers, tables
from bench.peers.contenders import AbsentError, Contender, Way
from bench.peers.environments import InstallError
from bench.peers.exports import Weights
from bench.peers.load import closed_loop, open_loop, undisturbed
from bench.peers.process import Running, ServerError, running
from bench.peers.results import Check, Load, OtherRunError, Results
from bench.settling import ASKING_S, settle_server
from search.quality.embeddings import Evaluation

_CLOSED = (Load("closed", 1), Load("closed", 32))
_OPEN = (Load("open", 0.8),)  # of a server's own rate at the most connections
_NUM_TEXTS = 1024
_FEWER_TEXTS = 96  # to warm up on, once a server's vectors are known to be right
_QUICK = ("plain",)


def main() -> None:
    """Check and time every server."""
    options = _options()
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything that reads it is imported
    torch.set_num_threads(options.threads)
    # Servers are stopped on the way out of an exception; the default would leave them running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    source = sameness.original()
    rated = sameness.rated_pairs("dev")
    texts = sameness.sentences(rated, _FEWER_TEXTS if options.quick else _NUM_TEXTS)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = sameness.converted(source, Path(scratch) / "minilm", rated)
        everyone = [
            *contenders.rheostat(checkpoint, options.models, options.model, options.threads),
            *servers.peers(Weights(options.envs, source, sameness.calibration), options.threads),
        ]
        results = Results(everyone)
        if options.resume:
            _read(results, options.json)
        trial = _Trial(
            results,
            texts,
            {} if options.quick else sameness.evaluations(),
            sameness.Reference(source, options.models, options.envs),
            options,
        )
        num_left = trial.run()
    tables.show(results, len(texts))
    report.finish({"peers": results.figures()}, options.json)
    if num_left:
        print(f"{num_left} turns are left: run again with --resume", file=sys.stderr)


def _read(results: Results, path: Path) -> None:
    try:
        results.read(path)
    except OtherRunError as error:
        print(f"--resume: {error}", file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class _Trial:
    """Turns of servers.

    Attributes:
        results: Filled.
        texts: To send.
        evaluations: By name, of ways that compute less.
        reference: What vectors are compared with.
        options: Of the command line.
    """

    results: Results
    texts: Sequence[str]
    evaluations: dict[str, Evaluation]
    reference: sameness.Reference
    options: argparse.Namespace

    def run(self) -> int:
        """Take the turns that are not taken yet; return how many are left."""
        give_up = time.monotonic() + 60 * self.options.minutes
        num_left = 0
        for number, contender in self._turns():
            if contender.name in self.results.absent:
                continue
            if time.monotonic() >= give_up:
                num_left += 1
                continue
            what = f"round {number}" if number else "check"
            print(f"{what}: {contender.name}", file=sys.stderr, flush=True)
            try:
                self._take(contender, number)
            except (AbsentError, InstallError, ServerError) as error:
                self.results.absent[contender.name] = str(error)
            if self.options.json is not None:  # an interrupted run loses one turn
                report.write({"peers": self.results.figures()}, self.options.json)
        return num_left

    @property
    def _loads(self) -> tuple[Load, ...]:
        return _CLOSED if self.options.quick else (*_CLOSED, *_OPEN)

    def _turns(self) -> Iterator[tuple[int, Contender]]:
        """Yield what is to be done; round 0 is a check alone."""
        only = self.options.only
        everyone = [one for one in self.results.contenders if only is None or one.name in only]
        for number in range(1, self.options.rounds + 1) if self.options.rounds else (0,):
            for one in everyone if number % 2 == 0 else reversed(everyone):
                is_done = (
                    self.results.has_run(one, number, self._loads)
                    if number
                    else all(way.name in self.results.checks for way in one.ways)
                )
                if not is_done:
                    yield number, one

    def _take(self, contender: Contender, number: int) -> None:
        """Start a server, check it if that is not done yet, and load it in a round from 1 on."""
        launch = contender.launch()
        first = contender.ways[0].body(self.texts[0])
        with running(launch, self.options.threads, first) as server:
            for way in contender.ways:
                sameness.asked(server, way, self.texts[:_FEWER_TEXTS])  # warms up
                if not contender.is_peer:
                    bodies = [way.body(text) for text in self.texts]
                    settle_server(server, partial(closed_loop, server, bodies, 1, ASKING_S))
                if way.name not in self.results.checks:
                    self._check(server, way)
                if number:
                    self._load(number, server, way)

    def _check(self, server: Running, way: Way) -> None:
        """Compare vectors, and score those that are not to be equal."""
        expected = self.reference.vectors(way.weights, self.texts)
        found, receipt = sameness.asked(server, way, self.texts)
        check = Check(sameness.least_cosine(found, expected), receipt=receipt)
        if not way.is_reduced and check.cosine < sameness.LEAST_COSINE:
            raise ServerError(f"cosine {check.cosine:.5f} to float32, not timed")
        for name, evaluation in self.evaluations.items() if way.is_reduced else ():
            texts = [str(text) for text in evaluation.texts]
            full = self.reference.vectors(way.weights, texts)
            own, _ = sameness.asked(server, way, texts)
            check.full[name] = evaluation.score(full.astype(float)).value
            check.scores[name] = evaluation.score(own.astype(float)).value
        self.results.checks[way.name] = check

    def _load(self, number: int, server: Running, way: Way) -> None:
        bodies = [way.body(text) for text in self.texts]
        rate = 0.0
        seconds = self.options.seconds
        for load in self._loads:
            if load.kind == "closed":
                closed_loop(server, bodies, int(load.level), seconds / 10)  # warms up
                figures = undisturbed(
                    partial(closed_loop, server, bodies, int(load.level), seconds)
                )
                rate = figures.requests_per_s
            else:
                figures = undisturbed(
                    partial(open_loop, server, bodies, load.level * rate, seconds, number)
                )
            self.results.add(way, load, number, figures)


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    options.add_argument(
        "--envs",
        type=Path,
        default=Path.home() / ".cache" / "rheostat" / "peers",
        metavar="DIR",
        help="environments of the peers, and what is kept (default: %(default)s)",
    )
    options.add_argument(
        "--models",
        type=Path,
        default=report.ZOO_TEXT.parent,
        metavar="DIR",
        help="checkpoints of Rheostat (default: those shipped)",
    )
    options.add_argument(
        "--model", default=report.ZOO_TEXT.name, help="the elastic one (%(default)s)"
    )
    options.add_argument("--threads", type=int, default=2, metavar="N", help="of every server")
    options.add_argument(
        "--rounds", type=int, metavar="N", help="default: 3; --quick: 1; 0: only the checks"
    )
    options.add_argument("--seconds", type=float, metavar="S", help="of one load; 4; --quick: 0.6")
    options.add_argument("--resume", action="store_true", help="go on with the file of --json")
    options.add_argument(
        "--minutes", type=float, default=float("inf"), metavar="M", help="start no turn after them"
    )
    names = [one.name for one in _names()]
    options.add_argument(
        "--only",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help=f"of {','.join(names)} (default: all; --quick: {','.join(_QUICK)}); rheostat always",
    )
    chosen = options.parse_args()
    if unknown := set(chosen.only or ()) - set(names):
        options.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
    if chosen.resume and chosen.json is None:
        options.error("--resume needs --json")
    chosen.envs = chosen.envs.resolve()  # servers are started in other folders
    if chosen.only is None and chosen.quick:
        chosen.only = list(_QUICK)
    if chosen.only is not None:
        chosen.only.append(contenders.SAME_WEIGHTS)
    if chosen.rounds is None:
        chosen.rounds = 1 if chosen.quick else 3
    chosen.seconds = chosen.seconds or (0.6 if chosen.quick else 4)
    return chosen


def _names() -> list[Contender]:
    none = Path()
    weights = Weights(none, none, list)
    return [*contenders.rheostat(none, none, "", 1), *servers.peers(weights, 1)]


if __name__ == "__main__":
    main()
