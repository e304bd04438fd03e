from __future__ import annotations

import os
from pathlib import Path

import pytest

from cdmodel.errors import OutputError
from storage.filesystem import open_store
from storage.output import check_writable


def test_a_folder_that_may_not_be_written_cannot_be_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Asked of the system call, because the superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(open_store(str(tmp_path / "new" / "out")))


def test_looking_whether_out_can_be_written_leaves_nothing(tmp_path: Path):
    assert check_writable(open_store(str(tmp_path / "new" / "out")))
    assert list(tmp_path.iterdir()) == []
