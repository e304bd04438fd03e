"""What a user can get wrong: one line that names the thing, exit code 2, and nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdmodel.bundle import DEMO_BUNDLE
from flows.cli import app
from storage.registry import open_registry


def refuse(*arguments: object) -> str:
    """Run the command in this process and return the one line it refuses with."""
    result = CliRunner().invoke(app, ["label", *map(str, arguments)])
    assert result.exit_code == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("cdlabel:")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"anything")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_missing_source(tmp_path: Path, out: Path) -> None:
    assert "nowhere" in refuse(tmp_path / "nowhere", "--out", out)
    assert not out.exists()


def test_an_empty_source(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no videos found" in refuse(tmp_path / "empty", "--out", out)
    assert not out.exists()


def test_a_manifest_without_uri(tmp_path: Path, out: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path\na.mp4\n")
    assert "uri" in refuse(manifest, "--out", out)
    assert not out.exists()


def test_a_manifest_with_duplicate_ids(tmp_path: Path, out: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("uri,video_id\na.mp4,same\nb.mp4,same\n")
    assert "same" in refuse(manifest, "--out", out)
    assert not out.exists()


def test_a_manifest_that_climbs_out_of_its_folder(tmp_path: Path, out: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("uri\n../../etc/passwd\n")
    assert "etc/passwd" in refuse(manifest, "--out", out)
    assert not out.exists()


def test_an_out_that_holds_something_else(videos: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.doc").write_text("precious")
    assert "thesis.doc" in refuse(videos, "--out", out)
    assert [path.name for path in out.iterdir()] == ["thesis.doc"]


def test_an_out_that_is_a_file(videos: Path, out: Path) -> None:
    out.write_text("precious")
    assert "out" in refuse(videos, "--out", out)
    assert out.read_text() == "precious"


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("decode.deadline=3", "decode.deadline"),
        ("colour=blue", "colour"),
        ("decode.deadline_seconds=-1", "deadline_seconds"),
        ("sharding.videos_per_shard=many", "sharding.videos_per_shard"),
        ("escalation.kind=magic", "escalation"),
        ("nonsense", "key=value"),
    ],
)
def test_a_setting_that_is_unknown_or_wrong(videos: Path, out: Path, assignment: str, named: str) -> None:
    assert named in refuse(videos, "--out", out, "--set", assignment)
    assert not out.exists()


def test_a_configuration_file_that_is_not_there(videos: Path, out: Path, tmp_path: Path) -> None:
    assert "none.toml" in refuse(videos, "--out", out, "--config", tmp_path / "none.toml")


def test_a_bundle_that_is_no_bundle(videos: Path, out: Path, tmp_path: Path) -> None:
    assert "bundle.json" in refuse(videos, "--out", out, "--models", tmp_path / "none")
    assert not out.exists()


def test_a_bundle_whose_weights_were_changed(videos: Path, out: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(DEMO_BUNDLE, bundle)
    weights = bundle / "student.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "student.safetensors" in refuse(videos, "--out", out, "--models", bundle)
    assert not out.exists()


def test_a_scheduler_that_does_not_answer(videos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.dispatch.CONNECT_SECONDS", 1)
    assert "127.0.0.1:9" in refuse(videos, "--out", out, "--scheduler", "tcp://127.0.0.1:9")
    assert not out.exists()


def test_a_bucket_that_cannot_be_reached(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    assert "s3://archive" in refuse(videos, "--out", "s3://archive/out")
    assert "s3://archive" in refuse("s3://archive/videos", "--out", videos.parent / "out")


def test_a_registry_that_is_none_and_an_alias_that_it_does_not_know(videos: Path, out: Path) -> None:
    models = videos.parent / "models"
    assert "no registry.json there" in refuse(videos, "--out", out, "--models", f"{models}@production")
    open_registry(str(models), create=True)
    assert "no alias production" in refuse(videos, "--out", out, "--models", f"{models}@production")
