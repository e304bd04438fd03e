"""What ``cdlabel serve`` refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdmodel.errors import ConfigError
from flows.nightly_config import NightlyConfig, ScheduleSettings, load_nightly_config

LABEL = 'source = "/videos"\nout = "/out"\n'
SCHEDULE = '[schedule]\ncron = "0 2 * * *"\n'


def load(folder: Path, text: str) -> NightlyConfig:
    file = folder / "nightly.toml"
    file.write_text(text)
    return load_nightly_config(file)


def test_the_file_holds_the_settings_of_label_and_a_table_of_when(tmp_path: Path) -> None:
    config = load(tmp_path, LABEL + SCHEDULE + 'timezone = "Europe/Berlin"\n[cluster]\nworkers = 2\n')
    assert (config.label.source, config.label.cluster.workers) == ("/videos", 2)
    assert config.schedule == ScheduleSettings(cron="0 2 * * *", timezone="Europe/Berlin")


RETRAIN = '[retrain]\nregistry = "/models"\n'


def test_the_same_file_says_when_to_retrain(tmp_path: Path) -> None:
    text = LABEL + SCHEDULE + RETRAIN + '[retrain_schedule]\ncron = "0 6 * * 0"\non_alarms = ["student_drift"]\n'
    config = load(tmp_path, text)
    assert config.retraining is not None
    assert (config.retraining.config.out, config.retraining.config.retrain.registry) == ("/out", "/models")
    assert config.retraining.schedule.on_alarms == ("student_drift",)
    assert load(tmp_path, LABEL + SCHEDULE + RETRAIN).retraining is None


@pytest.mark.parametrize(
    ("text", "subject", "reason"),
    [
        (LABEL + SCHEDULE + '[retrain_schedule]\ncron = "0 6 * * 0"\n', "retrain", "is missing"),
        (LABEL + SCHEDULE + RETRAIN + "[retrain_schedule]\n", "retrain_schedule", "nothing would ever begin"),
        (LABEL + SCHEDULE + RETRAIN + '[retrain_schedule]\ncron = "0 0 31 2 *"\n', "retrain_schedule", "never fires"),
        (
            LABEL + SCHEDULE + RETRAIN + '[retrain_schedule]\non_alarms = ["rain"]\n',
            "retrain_schedule.on_alarms.0",
            "should be",
        ),
        (
            LABEL + SCHEDULE + RETRAIN + '[retrain_schedule]\nname = "nightly"\ncron = "0 6 * * 0"\n',
            "retrain_schedule.name",
            "nights' schedule",
        ),
        (LABEL, "schedule", "is missing"),
        (LABEL + "[schedule]\n", "schedule.cron", "is missing"),
        (LABEL + '[schedule]\ncron = "0 0 31 2 *"\n', "schedule", "never fires"),
        (LABEL + '[schedule]\ncron = "at night"\n', "schedule", "needs minute, hour"),
        (LABEL + SCHEDULE + 'timezone = "Europe/Nowhere"\n', "schedule", "no zone 'Europe/Nowhere'"),
        (LABEL + SCHEDULE + 'timezone = "../etc/passwd"\n', "schedule", "no zone"),
        (LABEL + SCHEDULE + 'name = "a/b"\n', "schedule", "letters, digits"),
        (LABEL + SCHEDULE + 'notify = "ops"\n', "schedule", "type/name"),
        (LABEL + SCHEDULE + "catchup = true\n", "schedule.catchup", "unknown setting"),
        (LABEL + "run_id = 'tonight'\n" + SCHEDULE, "run_id", "belongs to one run"),
        (LABEL + SCHEDULE + "[decode]\nstall = 1\n", "decode.stall", "unknown setting"),
        (SCHEDULE, "source", "is missing"),
    ],
)
def test_a_setting_that_cannot_be_carried_out_is_named(tmp_path: Path, text: str, subject: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        load(tmp_path, text)
    assert refused.value.subject == subject
