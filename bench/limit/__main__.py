"""How close the server comes to the bare kernel: throughput under full load, latency when alone.

The kernel is the `run` of the same back end in a process of its own, on length-sorted batches of 32
of the same inputs, tokenised or decoded before; the server gets them one in a request. Both compute
with one thread and the subnet that the receipts name, and nothing is timed before their answers
agree, and before ONNX Runtime has all sessions that they will need.

Server and client share a machine, so cores are dealt out. On *one core*, the server has one for all
of its threads, as has the kernel in its turn, and the client the others: HTTP, JSON and tokenising
are taken from the kernel's time, the client is not. On *any core* all may run anywhere, so that the
event loop works beside the kernel; so does the client, which nothing is taken out for.

A second ratio is of CPU time: the kernel's for a row over the server's for a request. It leaves the
client out and is what one core of its own would give. Other work on the machine spoils both ratios,
the first one more: of a busy core, a server of several threads gets more than the kernel's single
one. The tables say how much of a core the kernel got.

In a round, kernel and server take turns; tables show medians over rounds, and the rounds' range.
With --quick, one round of the whole models on any core.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench import report
from bench.limit import bare, cases, tables, threads
from bench.limit.bare import Kernel
from bench.limit.cases import Case
from bench.limit.load import Window, ask, closed_loop
from bench.limit.tables import Results, Round
from bench.peers.process import Launch, Running, ServerError, running
from bench.settling import ASKING_S, settle_server

_CONNECTIONS = 3 * bare.BATCH_SIZE  # one batch runs, one waits, one is on its way
_NUM_CHECKED = 8
# However many wait, none is refused or slimmed; an input that comes again is computed again.
_AS_ASKED = ("--policy", "fixed", "--max-wait-ms", "1e9", "--max-cache-bytes", "0")
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Arrangement:
    """Who may run where.

    Attributes:
        name: In the tables.
        server: Cores of the server, and of the kernel in its turn.
        client: Cores of this process.
    """

    name: str
    server: frozenset[int]
    client: frozenset[int]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: Of everything.
        seconds: Of one load.
        num_inputs: Different ones.
        num_alone: Runs of one input.
        is_whole: Whether parts of the models are measured too, and on one core.
    """

    rounds: int
    seconds: float
    num_inputs: int
    num_alone: int
    is_whole: bool = True


_QUICK = Effort(rounds=1, seconds=0.6, num_inputs=192, num_alone=40, is_whole=False)
_FULL = Effort(rounds=5, seconds=4.0, num_inputs=1024, num_alone=200)


def main() -> None:
    """Measure, print and write."""
    options = _options()
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        print("this benchmark needs Linux and two cores", file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)
    # Servers are stopped on the way out of an exception; the default would leave them running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    effort = _QUICK if options.quick else _FULL
    rounds, seconds = options.rounds or effort.rounds, options.seconds or effort.seconds
    effort = replace(effort, rounds=rounds, seconds=seconds)
    texts, what = cases.sentences(options.text, effort.num_inputs)
    with tempfile.TemporaryDirectory() as scratch:
        profiles = options.profiles.resolve()  # the server starts in another folder
        try:
            folders = (Path(scratch), profiles)
            processes = options.backend, options.http_workers
            results = measure(options.text, options.image, texts, effort, *folders, *processes)
        except ServerError as error:
            print(f"not measured to the end: {error}", file=sys.stderr)
            sys.exit(1)
    tables.show(
        results,
        f"{options.backend}; HTTP workers: {options.http_workers}; texts: {what}; images: PNG, all "
        "tasks or one; one input in a request",
    )
    report.finish(
        {
            "limit": {
                "backend": options.backend,
                "http_workers": options.http_workers,
                "texts": what,
                **results.figures(),
            }
        },
        options.json,
    )


def measure(
    text: Path,
    image: Path,
    texts: list[str],
    effort: Effort,
    scratch: Path,
    profiles: Path,
    backend: str = "torch",
    http_workers: int = 1,
) -> Results:
    """Serve two checkpoints and compare.

    Args:
        text: Checkpoint of the family exits.
        image: Checkpoint that takes images.
        texts: To send.
        effort: How long to measure.
        scratch: An empty folder.
        profiles: Folder of the server's profiles.
        backend: Of server and kernel.
        http_workers: Of the server: 1, or 0 for HTTP and models in one process.

    Raises:
        ServerError: If the server does not answer, or not what the kernel does.
    """
    copy = cases.halved(text, scratch / "halved")
    for name, folder in (("text", text), ("image", image)):
        (scratch / name).symlink_to(folder.resolve())
    kinds = cases.text_cases(text, copy, texts), cases.image_cases(image, effort.num_inputs)
    every = [case for kind in kinds for case in (kind if effort.is_whole else kind[:1])]
    arrangements = _arrangements(os.sched_getaffinity(0))
    if not effort.is_whole:
        arrangements = arrangements[-1:]
    serve = (sys.executable, "-m", "server", "serve", "--port", "{port}", "--models", str(scratch))
    as_the_kernel = ("--backend", backend, "--num-threads", "1", "--profiles", str(profiles))
    processes = ("--http-workers", str(http_workers))
    launch = Launch((*serve, *processes, *as_the_kernel, *_AS_ASKED, "--log-level", "warning"))
    results = Results(_CONNECTIONS)
    with bare.process() as kernels, running(launch, 1, every[0].body(texts[0])) as server:
        turns = _Turns(server, kernels, effort)
        kernel_of: dict[str, Kernel] = {}
        for case in every:
            kernel_of[case.name], fraction = check(server, kernels, case, backend)
            subnet = dict(kernel_of[case.name].subnet)
            settle_server(server, partial(closed_loop, server, case, subnet, 1, ASKING_S))
            results.ran[case.name] = (kernel_of[case.name].subnet, fraction)
        for number in range(effort.rounds):
            for arrangement in arrangements:
                with _arranged(server, arrangement):
                    for case in every:
                        said = f"round {number + 1}: {case.name}, {arrangement.name}"
                        print(said, file=sys.stderr, flush=True)
                        found = turns.take(case, kernel_of[case.name], arrangement, number)
                        results.rounds.setdefault((case.name, arrangement.name), []).append(found)
    return results


def check(server: Running, kernels: Executor, case: Case, backend: str) -> tuple[Kernel, float]:
    """Ask a few times, and run what the receipts name.

    Returns:
        That kernel, and its share of the MACs of the largest subnet.

    Raises:
        ServerError: If the kernel does not give what the server answers, or has another depth.
    """
    answers = ask(server, case, case.contents[:_NUM_CHECKED])
    receipt = answers[-1]["receipt"]
    subnet = receipt["subnet"]
    if case.depth is not None and subnet["depth"] != case.depth:
        raise ServerError(f"{case.name}: depth={subnet['depth']} was run, not {case.depth}")
    named = (tuple(subnet.items()), tuple(receipt["tasks"]))
    kernel = Kernel(case.checkpoint, *named, case.contents, backend)
    expected = kernels.submit(bare.outputs, kernel, _NUM_CHECKED).result()
    for answer, values in zip(answers, expected, strict=True):
        if not np.allclose(cases.values(answer), values, atol=_TOLERANCE):
            raise ServerError(f"{case.name}: the server's answer is not the kernel's")
    return kernel, receipt["fraction"]


@dataclass(frozen=True)
class _Turns:
    """The server, the process of the kernel, and for how long each is watched."""

    server: Running
    kernels: Executor
    effort: Effort

    def take(self, case: Case, kernel: Kernel, arrangement: Arrangement, number: int) -> Round:
        """Watch both; in every second round the server goes first."""
        cores, effort = arrangement.server, self.effort

        def server() -> tuple[Window, Window]:
            ask_for = partial(closed_loop, self.server, case, dict(kernel.subnet))
            return ask_for(_CONNECTIONS, effort.seconds), ask_for(1, effort.seconds)

        served = server() if number % 2 else None
        batches = self.kernels.submit(bare.throughput, kernel, cores, effort.seconds).result()
        alone = self.kernels.submit(bare.alone, kernel, cores, effort.num_alone).result()
        full, lone = served or server()
        return Round(batches, full, alone, lone)


def _arrangements(cores: Collection[int]) -> list[Arrangement]:
    one, every = frozenset({min(cores)}), frozenset(cores)
    return [Arrangement("one core", one, every - one), Arrangement("any core", every, every)]


@contextmanager
def _arranged(server: Running, arrangement: Arrangement) -> Iterator[None]:
    """Let server and client run where they may; afterwards the client anywhere again."""
    before = os.sched_getaffinity(0)
    threads.pin(server.session, arrangement.server)
    os.sched_setaffinity(0, arrangement.client)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _options() -> argparse.Namespace:
    options = report.parser(__doc__)
    for name, folder in (("text", report.ZOO_TEXT), ("image", report.ZOO)):
        options.add_argument(
            f"--{name}",
            type=Path,
            default=folder,
            metavar="DIR",
            help="checkpoint to serve (default: the one shipped)",
        )
    options.add_argument(
        "--profiles",
        type=Path,
        default=Path.home() / ".cache" / "rheostat" / "limit",
        metavar="DIR",
        help="the server's measured times, which nothing here goes by (default: %(default)s)",
    )
    options.add_argument("--backend", default="torch", choices=bare.BACKENDS)
    options.add_argument(
        "--http-workers",
        type=int,
        default=1,
        choices=(0, 1),
        help="of the server; 0: HTTP and models in one process (default: %(default)s)",
    )
    options.add_argument("--rounds", type=int, metavar="N", help="default: 5; --quick: 1")
    options.add_argument("--seconds", type=float, metavar="S", help="of one load; 4; --quick: 0.6")
    return options.parse_args()


if __name__ == "__main__":
    main()
