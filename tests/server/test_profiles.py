from __future__ import annotations

import json
import logging
import os
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from models.backends.torch import TorchBackend
from search.timing.profile import LatencyProfile, Workload
from server.observe.progress import ProgressDisplay
from server.profiles import Profiles
from server.served import Served


def profiles(folder: Path, served: Served) -> Profiles:
    ticks = count()
    backend = TorchBackend()
    backend.prepare(served.model)
    return Profiles(folder, backend, lambda: float(next(ticks)))


def never(_: Served) -> LatencyProfile:
    pytest.fail("measured again")


def test_a_profile_is_measured_once_and_then_read(
    tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "yet"
    first = profiles(folder, served).get(served)
    (path,) = folder.iterdir()
    assert path.name.startswith("tiny-")
    monkeypatch.setattr(Profiles, "measure", lambda self, served, progress: never(served))
    again = profiles(folder, served).get(served)
    assert again.curves == first.curves
    np.testing.assert_array_equal(again.seconds, first.seconds)
    plan = served.elastic.plan(served.elastic.space.largest, served.inputs.plan_shapes())
    assert again.total(plan, Workload(3, 0)) == first.total(plan, Workload(3, 0))


def test_who_waits_for_a_measurement_is_told_that_it_goes_on(
    tmp_path: Path, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        ticks = count(step=3)  # a clock on which each time that is told comes three seconds later
        progress = ProgressDisplay(clock=lambda: float(next(ticks)))
        profiles(tmp_path, served).get(served, progress)
        profiles(tmp_path, served).get(served, progress)  # what is known is not announced
    first, *between, last = [record.getMessage() for record in caplog.records]
    what = "measuring the latency profile of tiny, once"
    assert first == what
    assert last.startswith("measured tiny in ")
    parts = [int(line.removeprefix(f"{what}: ").removesuffix(" %")) for line in between]
    assert parts == sorted(parts)
    assert 0 <= parts[0] <= parts[-1] <= 100
    assert len(parts) > 1


class Measured(NamedTuple):
    """A profile that was measured, and its file."""

    profile: LatencyProfile
    name: str
    text: str


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, served: Served) -> Measured:
    folder = tmp_path_factory.mktemp("profiles")
    profile = profiles(folder, served).get(served)
    (path,) = folder.iterdir()
    return Measured(profile, path.name, path.read_text())


def is_measured_again(
    folder: Path, served: Served, measured: Measured, content: bytes, patch: pytest.MonkeyPatch
) -> bool:
    (folder / measured.name).write_bytes(content)
    patch.setattr(Profiles, "measure", lambda self, served, progress: measured.profile)
    return profiles(folder, served).get(served) is measured.profile


@pytest.mark.parametrize("mode", [0o022, 0o077])
def test_a_profile_has_the_mode_of_any_new_file(
    tmp_path: Path, served: Served, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(mode)
    try:
        profiles(tmp_path, served).get(served)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o666 & ~mode


@pytest.mark.parametrize(
    "fields",
    [
        {"rows": [1, 1, 4]},
        {"rows": [4, 1, 16]},
        {"rows": [0, 1, 4]},
        {"lengths": [-1]},
        {"lengths": []},
        {"seconds": []},
        {"seconds": [[[1e300]]]},
        {"seconds": "x"},
        {"curves": []},
        {"curves": [[1, 2]]},
        {"curves": [[None, {}, 0]]},
        {"rows": None},
        {"rows": [10**400]},
    ],
    ids=str,
)
def test_a_profile_that_makes_no_sense_is_measured_again(
    tmp_path: Path,
    served: Served,
    measured: Measured,
    fields: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = json.loads(measured.text)
    text = json.dumps({**record, "profile": {**record["profile"], **fields}})
    assert is_measured_again(tmp_path, served, measured, text.encode(), monkeypatch)
    assert f"{measured.name}: " in caplog.text
    assert "cannot be used and is measured again" in caplog.text


def test_a_sound_profile_is_not_measured_again(
    tmp_path: Path, served: Served, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = measured.text.encode()
    assert not is_measured_again(tmp_path, served, measured, text, monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"profile": {"rows": [1]}}',
        "[1]",
        "[" * 100_000,
        '{"profile": ' * 100_000,
        '{"profile": NaN}',
        "null",
        "1" * 5000,
        "\ud800",
    ],
    ids=lambda text: text[:12],
)
def test_a_file_that_cannot_be_read_is_measured_again(
    tmp_path: Path,
    served: Served,
    measured: Measured,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = text.encode(errors="surrogatepass")
    assert is_measured_again(tmp_path, served, measured, content, monkeypatch)
    assert "cannot be used and is measured again" in caplog.text


def test_a_file_that_cannot_be_read_is_replaced(
    tmp_path: Path, served: Served, measured: Measured
) -> None:
    path = tmp_path / measured.name
    path.write_text("{")
    profiles(tmp_path, served).get(served)
    assert json.loads(path.read_text())["made_for"]["model"] == "tiny"


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_serve(
    tmp_path: Path, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    kept = profiles(in_the_way, served)
    with caplog.at_level(logging.WARNING):
        found = kept.get(served)
    assert len(found.seconds)
    assert "is not kept" in caplog.text
    assert kept.get(served) is found  # a reload does not measure again


@pytest.mark.parametrize("fault", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_profile_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, served: Served, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, target: Path) -> Path:
        assert path.stat().st_size  # it had been written
        raise fault

    monkeypatch.setattr(Path, "replace", fail)
    expected = pytest.raises(type(fault)) if isinstance(fault, KeyboardInterrupt) else nullcontext()
    with expected:
        profiles(tmp_path, served).get(served)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_on_a_full_disk_nothing_is_left_behind_and_the_profile_is_used(
    tmp_path: Path,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path) -> None:
        """Make a file whose writes fail once they reach the disk."""
        path.symlink_to("/dev/full")

    monkeypatch.setattr(Path, "touch", full)
    with caplog.at_level(logging.WARNING):
        found = profiles(tmp_path, served).get(served)
    assert len(found.seconds)
    assert "the profile of tiny is not kept: [Errno 28] No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_other_weights_of_one_architecture_are_not_measured_again(
    tmp_path: Path, served: Served
) -> None:
    profiles(tmp_path, served).get(served)
    trained = served.manifest.model_copy(update={"version": "other"})
    larger = trained.model_copy(update={"config": {**trained.config, "channels": [64, 64]}})
    for manifest, num_kept in ((trained, 1), (larger, 2)):
        other = replace(served, manifest=manifest)
        profiles(tmp_path, other).get(other)
        assert len(list(tmp_path.iterdir())) == num_kept
