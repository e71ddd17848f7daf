from __future__ import annotations

import pytest

from bench import report
from server.settings import DATA


@pytest.mark.parametrize("folder", [None, "/nowhere"])
def test_a_missing_data_set_ends_a_benchmark_with_one_line_and_code_2(
    folder: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(DATA, raising=False)
    if folder is not None:
        monkeypatch.setenv(DATA, folder)
    with pytest.raises(SystemExit) as caught:
        report.cifar100_splits()
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("this benchmark needs CIFAR-100: ")
    assert printed.err.count("\n") == 1
