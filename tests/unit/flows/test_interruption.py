"""Ctrl-C is recognised behind whatever error it caused on the way out."""

from __future__ import annotations

import pytest
import typer

from flows.command import EXIT_INTERRUPTED, one_line_errors


def test_an_error_that_ctrl_c_caused_counts_as_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    @one_line_errors
    def command() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ConnectionError("the server has ended too")  # noqa: B904 - the implicit chain is what is tested

    with pytest.raises(typer.Exit) as stopped:
        command()
    assert stopped.value.exit_code == EXIT_INTERRUPTED
    assert capsys.readouterr().err.startswith("cdlabel: interrupted")


def test_an_error_of_its_own_is_not_hidden() -> None:
    @one_line_errors
    def command() -> None:
        raise ConnectionError("the network is down")

    with pytest.raises(ConnectionError):
        command()
