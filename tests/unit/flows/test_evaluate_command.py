from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from cdmodel.errors import ConfigError
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from flows.cli import app
from flows.config import load_settings
from tasks.evaluation_settings import EvaluateSettings

LABELS = ("left", "right", "still")


@pytest.fixture
def places(tmp_path):
    write_tiny_bundle(tmp_path / "bundle", labels=LABELS)
    with (tmp_path / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri", "label", "split"])
        for number in range(6):
            name = f"{number}.mkv"
            (tmp_path / name).write_bytes(encode_numbered_clips(1 + number % 3))
            writer.writerow([name, LABELS[number % 3], "cal" if number < 3 else "test"])
    return [str(tmp_path / "set.csv"), "--models", str(tmp_path / "bundle"), "--out", str(tmp_path / "out")]


def test_evaluate_prints_the_headline(places):
    done = CliRunner().invoke(app, ["evaluate", *places])
    assert done.exit_code == 0, done.output
    assert "dense teacher" in done.stdout
    assert "default: gain, log_pool" in done.stdout


def test_a_role_without_videos_is_one_line_and_exit_code_2(places, tmp_path):
    (tmp_path / "set.csv").write_text("uri,label,split\n0.mkv,left,train\n1.mkv,right,train\n")
    done = CliRunner().invoke(app, ["evaluate", *places])
    assert done.exit_code == 2
    assert "role cal" in done.stderr
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_a_manifest_elsewhere_is_read_if_the_root_is_named_and_json_prints_the_document(places, tmp_path):
    (tmp_path / "lists").mkdir()
    header, *rows = (tmp_path / "set.csv").read_text().splitlines()
    absolute = [header, *(f"{tmp_path}/{row}" for row in rows)]
    (tmp_path / "lists" / "set.csv").write_text("\n".join(absolute))
    command = ["evaluate", str(tmp_path / "lists" / "set.csv"), *places[1:]]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "corpus.roots" in refused.stderr

    done = CliRunner().invoke(app, [*command, "--json", "--set", f'corpus.roots=["{tmp_path}"]'])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "evaluation.json").read_text())


def test_settings_come_from_file_and_assignments(tmp_path):
    (tmp_path / "e.toml").write_text('roles = "fresh"\nepsilon = 0.05\n')
    settings = load_settings(EvaluateSettings, tmp_path / "e.toml", ["epsilon=0.01", "seed=3"])
    assert settings == EvaluateSettings(roles="fresh", epsilon=0.01, seed=3)


@pytest.mark.parametrize("assignment", ["epsilon=0", "roles=all", "videos_per_part=0", "speed=9"])
def test_a_bad_setting_is_refused_by_name(assignment):
    with pytest.raises(ConfigError) as caught:
        load_settings(EvaluateSettings, None, [assignment])
    assert assignment.partition("=")[0] in str(caught.value)
