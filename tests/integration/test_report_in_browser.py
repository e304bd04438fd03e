"""The report as a reader gets it: opened from a file, in a real browser."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

# The builders of small runs are those of the unit tests.
sys.path += [str(Path(__file__).parents[1] / "unit" / "storage"), str(Path(__file__).parents[1])]

from browser import PageVisit, find_browser, visit
from coloured_videos import encode_colours
from report_runs import HOSTILE_NAME, reported_run
from run_builders import NOON
from typer.testing import CliRunner

from flows.cli import app
from storage.filesystem import open_store

SPOILED = '<img src="http://127.0.0.1:1/x.png"><script>console.error("oh no")</script><p style="width: 5000px">wide</p>'
QUESTIONS = (
    "document.images.length",
    "[...document.images].every(image => image.complete && image.naturalWidth > 0)",
    "document.scripts.length",
    "[...document.querySelectorAll('svg[role=img]')].every(svg => svg.getAttribute('aria-label'))",
    "[...document.querySelectorAll('svg[role=img]')].every(svg => svg.getBoundingClientRect().width > 0)",
    "document.body.innerText",
)


@pytest.fixture(scope="module")
def browser() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    # Installed is not yet able to start, such as in a container that lacks a library.
    started = subprocess.run([found, "--version"], capture_output=True, timeout=60, check=False)
    if started.returncode:
        pytest.skip(f"{found} does not start: {started.stderr.decode()[-200:]}")
    return found


def test_the_report_opens_without_a_complaint_and_without_a_request(browser: str, tmp_path: Path):
    store = open_store(str(tmp_path / "out"))
    for night in range(2):
        reported_run(store, f"r{night}", NOON + timedelta(days=night), videos_folder=tmp_path)
    (tmp_path / "v000.mp4").write_bytes(encode_colours(("red", "green", "blue"), seed=1))
    page = tmp_path / "report.html"
    made = CliRunner().invoke(app, ["report", store.root, "--html", str(page), "--pictures", "3"])
    assert made.exit_code == 0, made.output

    seen = visit(browser, page, tmp_path / "profile", QUESTIONS)
    images, images_are_whole, scripts, are_named, are_drawn, text = seen.answers
    assert seen.requests == [page.as_uri()]
    assert seen.complaints == []
    assert [width for width, drawn in seen.drawn_widths.items() if drawn > width] == []
    assert (images, images_are_whole, scripts, are_named, are_drawn) == (1, True, 0, True, True)
    assert HOSTILE_NAME in text

    spoiled = _spoiled(browser, page, tmp_path)
    assert len(spoiled.requests) > 1
    assert spoiled.complaints
    assert max(spoiled.drawn_widths.values()) > 2000


def _spoiled(browser: str, page: Path, folder: Path) -> PageVisit:
    """Open the page without its policy and with what it must not have: who watches must notice."""
    content = page.read_text().replace("Content-Security-Policy", "nothing").replace("<main>", f"<main>{SPOILED}")
    (folder / "spoiled.html").write_text(content)
    return visit(browser, folder / "spoiled.html", folder / "other-profile")
