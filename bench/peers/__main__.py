"""Rheostat's /v1/embeddings beside infinity, LitServe, mosec and a plain FastAPI handler.

Every peer gets a virtual environment of its own, made on the first run (minutes, a gigabyte each).
All servers run on the same MiniLM, one at a time, on the same number of threads; none is timed
before its vectors agree with those of sentence-transformers. Texts are sentences of STS-Benchmark,
one in a request. A checkpoint trained to be elastic comes in beside them, with budgets.

A round starts, checks and loads every server once, and every second round goes backwards, so that a
slow moment does not always hit the same one. Tables show each server's median round.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bench import report
from bench.peers import contenders, sameness, tables
from bench.peers.contenders import AbsentError, Contender, Way
from bench.peers.environments import InstallError
from bench.peers.load import closed_loop, open_loop
from bench.peers.process import Running, ServerError, running
from bench.peers.tables import Load, Results
from bench.settling import ASKING_S, settle_server

CONNECTIONS = (1, 8, 32)
FRACTIONS = (0.5, 0.8)  # of a server's own rate at the most connections
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
    rated = sameness.rated_pairs()
    texts = sameness.sentences(rated, _FEWER_TEXTS if options.quick else _NUM_TEXTS)
    expected = sameness.reference(source, texts, options.envs)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = sameness.converted(source, Path(scratch) / "minilm", rated)
        everyone = [
            *contenders.rheostat(checkpoint, options.models, options.model, options.threads),
            *contenders.peers(options.envs, source),
        ]
        results = Results(everyone)
        for number in range(options.rounds):
            for contender in everyone if number % 2 == 0 else reversed(everyone):
                if contender.name not in results.absent:
                    _take_turn(contender, results, texts, expected, options, number)
    tables.show(results, len(texts))
    report.finish({"peers": results.figures()}, options.json)


def _take_turn(
    contender: Contender,
    results: Results,
    texts: Sequence[str],
    expected: npt.NDArray[np.float32],
    options: argparse.Namespace,
    number: int,
) -> None:
    """Start, check and load one server; one that cannot be measured is noted as absent."""
    print(f"round {number + 1}: {contender.name}", file=sys.stderr, flush=True)
    try:
        if options.only is not None and contender.name not in options.only:
            raise AbsentError("not asked for; see --only")
        launch = contender.launch()
        with running(launch, options.threads, contender.ways[0].body(texts[0])) as server:
            for way in contender.ways:
                some = slice(None if number == 0 else _FEWER_TEXTS)
                cosine, receipt = sameness.least_cosine(server, way, texts[some], expected[some])
                results.note(way, cosine, receipt)
                if way.must_match and cosine < sameness.LEAST_COSINE:
                    raise ServerError(f"cosine {cosine:.5f} to sentence-transformers, not timed")
                if not contender.is_peer:
                    bodies = [way.body(text) for text in texts]
                    settle_server(server, partial(closed_loop, server, bodies, 1, ASKING_S))
                _load(server, way, results, texts, options, number)
    except (AbsentError, InstallError, ServerError) as error:
        results.absent[contender.name] = str(error)


def _load(
    server: Running,
    way: Way,
    results: Results,
    texts: Sequence[str],
    options: argparse.Namespace,
    number: int,
) -> None:
    bodies = [way.body(text) for text in texts]
    rate = 0.0
    for connections in CONNECTIONS:
        closed_loop(server, bodies, connections, options.seconds / 10)  # warms up
        figures = closed_loop(server, bodies, connections, options.seconds)
        results.add(way, Load("closed", connections), figures)
        rate = figures.requests_per_s
    for fraction in () if options.quick else FRACTIONS:
        figures = open_loop(server, bodies, fraction * rate, options.seconds, number)
        results.add(way, Load("open", fraction), figures)


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
    options.add_argument("--rounds", type=int, metavar="N", help="default: 3; --quick: 1")
    options.add_argument("--seconds", type=float, metavar="S", help="of one load; 5; --quick: 0.6")
    none = Path()
    everyone = [*contenders.rheostat(none, none, "", 1), *contenders.peers(none, none)]
    names = [one.name for one in everyone if one.name != contenders.SAME_WEIGHTS]
    options.add_argument(
        "--only",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help=f"of {','.join(names)} (default: all; --quick: {','.join(_QUICK)}); rheostat always",
    )
    chosen = options.parse_args()
    if unknown := set(chosen.only or ()) - set(names):
        options.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
    chosen.envs = chosen.envs.resolve()  # servers are started in other folders
    if chosen.only is None and chosen.quick:
        chosen.only = list(_QUICK)
    if chosen.only is not None:
        chosen.only.append(contenders.SAME_WEIGHTS)
    chosen.rounds = chosen.rounds or (1 if chosen.quick else 3)
    chosen.seconds = chosen.seconds or (0.6 if chosen.quick else 5)
    return chosen


if __name__ == "__main__":
    main()
