"""Bars that have nothing to show print nothing: a refused command says one line, its error."""

from __future__ import annotations

import pytest

from flows.bars import busy_bar, count_bar, counted_bar


def test_work_that_never_begins_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with count_bar("sample", 3, "videos"), counted_bar("generate", "videos"):
        pass
    with pytest.raises(ValueError, match="refused"), count_bar("sample", 3, "videos"):
        raise ValueError("refused")
    assert capsys.readouterr() == ("", "")


def test_what_is_done_is_counted_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with count_bar("sample", 3, "videos") as advance:
        advance(1)
        advance(3)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "sample" in shown.err
    assert "3/3 videos" in shown.err


def test_waiting_is_shown_on_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    with busy_bar("plan"):
        pass
    assert capsys.readouterr() == ("", "")
