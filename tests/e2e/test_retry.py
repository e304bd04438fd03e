"""A broken video that was mended, labeled again by ``retry``."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.generate_corpus import generate_corpus


def test_a_mended_video_is_labeled_by_retry(
    cdlabel: Callable[..., subprocess.CompletedProcess[str]], rows: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    generate_corpus(str(tmp_path / "corpus"), videos=1, seed=5, distractors=0.0, on_progress=lambda _: None)
    folder, out = tmp_path / "corpus" / "videos", tmp_path / "out"
    good = next(path for path in folder.rglob("*") if path.is_file())
    broken = folder / f"broken{good.suffix}"
    broken.write_bytes(b"not a video")
    cdlabel("label", folder, "--out", out, "--workers", 1, "--strict", expect=3)
    shutil.copy(good, broken)
    run = json.loads(cdlabel("retry", out, "--reason", "unreadable", "--strict", "--json").stdout)
    assert (run["videos_planned"], run["videos_labeled"]) == (1, 1)
    answer = rows(out, f"select status, run_id from latest where uri.ends_with('{broken.name}')")
    assert answer == [{"status": "labeled", "run_id": run["run_id"]}]
    assert "nothing to retry" in cdlabel("retry", out).stderr
