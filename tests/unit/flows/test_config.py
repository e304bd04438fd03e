from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from cdmodel.aggregation import LogPool, MeanProbability
from cdmodel.errors import ConfigError
from cdmodel.policies import Budgeted, Certified, DenseTeacher, Gain, RandomClips, Sequential
from cdmodel.sampling import ClipSampling
from cdmodel.train_settings import TrainSettings
from flows.config import (
    load_config,
    load_dataset_settings,
    load_settings,
    read_toml,
    to_json,
    to_request,
    to_toml,
)
from storage.corpus import CorpusRules
from tasks.compose_settings import ComposeSettings

PLACES = {"source": "/videos", "out": "/tables"}

EVERYTHING = """
source = "/videos"
out = "/tables"
run_id = "r1"
relabel = true
corpus_name = "mine"

[models]
bundle = "/bundles/b"
allowed_builders = ["acme"]

[sampling]
clip_seconds = 2.0
stride_seconds = 0.5

[escalation]
kind = "gain"
min_gain = 0.25

[aggregation]
kind = "log_pool"
confidence_power = 1.0
independence = 0.5
teacher_factor = 2.0

[decode]
deadline_seconds = 60.0
max_frame_pixels = 1000000

[sharding]
videos_per_shard = 8
bytes_per_shard = 1000

[cluster]
workers = 2
shards_in_flight_per_worker = 3

[prices]
usd_per_gpu_hour = 2.0
usd_per_cpu_hour = 0.05

[prices.devices]
"cuda:NVIDIA H200" = 4.2
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def _load(*assignments: str, file: Path | None = None, **arguments: object):
    return load_config(file, assignments, PLACES | arguments)


def test_defaults_leave_policy_sampling_and_bundle_to_the_bundle():
    config = _load()
    assert config.escalation is config.aggregation is config.sampling is config.models.bundle is None
    assert config.relabel is False


def test_every_setting_can_come_from_a_file(tmp_path):
    config = load_config(_write(tmp_path, EVERYTHING), [], {})
    assert config.escalation == Gain(min_gain=0.25)
    assert config.aggregation == LogPool(confidence_power=1.0, independence=0.5, teacher_factor=2.0)
    assert config.sampling == ClipSampling(clip_seconds=2.0, stride_seconds=0.5)
    assert (config.run_id, config.relabel, config.corpus_name) == ("r1", True, "mine")
    assert config.models.allowed_builders == ("acme",)


def test_what_is_written_as_toml_is_read_as_the_same(tmp_path):
    config = load_config(_write(tmp_path, EVERYTHING), [], {})
    assert load_config(_write(tmp_path, to_toml(config)), [], {}) == config
    plain = _load()
    assert load_config(_write(tmp_path, to_toml(plain)), [], {}) == plain


def test_json_is_one_line_of_everything():
    text = to_json(_load("decode.deadline_seconds=5"))
    assert "\n" not in text
    assert json.loads(text)["decode"]["deadline_seconds"] == 5


def test_the_last_word_wins_file_then_set_then_argument(tmp_path):
    file = _write(tmp_path, 'run_id = "file"\ncorpus_name = "file"\nrelabel = true\n')
    config = _load("run_id=set", "corpus_name=set", file=file, run_id="argument")
    assert (config.run_id, config.corpus_name, config.relabel) == ("argument", "set", True)


def test_an_argument_that_was_not_given_overrides_nothing():
    assert _load("run_id=set", run_id=None).run_id == "set"


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("relabel=true", lambda config: config.relabel is True),
        ("decode.max_frame_pixels = 100", lambda config: config.decode.max_frame_pixels == 100),
        ("corpus_name=my videos", lambda config: config.corpus_name == "my videos"),
        ('corpus_name="quoted"', lambda config: config.corpus_name == "quoted"),
        ("corpus_name=a=b", lambda config: config.corpus_name == "a=b"),
        ('models.allowed_builders=["a", "b"]', lambda config: config.models.allowed_builders == ("a", "b")),
        ('escalation={kind="dense_teacher"}', lambda config: config.escalation == DenseTeacher()),
        ("aggregation.kind=mean", lambda config: config.aggregation == MeanProbability()),
        ("models.bundle=/some/bundle", lambda config: config.models.bundle == "/some/bundle"),
    ],
)
def test_set_reads_values_as_toml_and_the_rest_as_plain_text(assignment, read):
    assert read(_load(assignment))


def test_a_policy_can_be_put_together_from_several_sets():
    assert _load("escalation.kind=gain", "escalation.min_gain=0.5").escalation == Gain(min_gain=0.5)


@pytest.mark.parametrize(
    ("table", "policy"),
    [
        ('{kind="budgeted", teacher_share=0.2}', Budgeted(teacher_share=0.2)),
        ('{kind="certified", epsilon=0.02}', Certified(epsilon=0.02, delta=0.1)),
        ('{kind="random", clips=2, seed=7}', RandomClips(clips=2, seed=7)),
        ('{kind="sequential", min_value=0.1, clips_per_round=2}', Sequential(min_value=0.1, clips_per_round=2)),
    ],
)
def test_a_policy_is_read_by_its_kind(table, policy):
    assert _load(f"escalation={table}").escalation == policy


def test_places_become_absolute_because_workers_stand_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(None, ["models.bundle=bundle"], {"source": "videos", "out": "s3://bucket/out"})
    assert config.source == str(tmp_path / "videos")
    assert config.out == "s3://bucket/out"
    assert config.models.bundle == str(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("assignments", "key"),
    [
        (["surprise=1"], "surprise"),
        (["decode.surprise=1"], "surprise"),
        (["escalation.kind=gain", "escalation.min_gain=0", "escalation.surprise=1"], "surprise"),
        (["relabel=perhaps"], "relabel"),
        (["decode.deadline_seconds=soon"], "decode.deadline_seconds"),
        (["decode.deadline_seconds=-1"], "deadline_seconds"),
        (["decode.deadline_seconds=nan"], "deadline_seconds"),
        (["decode=5"], "decode"),
        (["escalation.kind=coin"], "escalation"),
        (["escalation.min_gain=0.5"], "escalation"),
        (["escalation.kind=gain"], "min_gain"),
        (["escalation.kind=gain", "escalation.min_gain=2"], "min_gain"),
        (["escalation.kind=budgeted", "escalation.teacher_share=2"], "teacher_share"),
        (["escalation.kind=certified", "escalation.epsilon=0"], "epsilon"),
        (["escalation.kind=random", "escalation.clips=2", "escalation.seed=-1"], "seed"),
        (["escalation.kind=top_gain", "escalation.clips=0"], "clips"),
        (["sampling.clip_seconds=0"], "clip_seconds"),
        (["aggregation.kind=log_pool", "aggregation.confidence_power=-1"], "confidence_power"),
        (["run_id=../up"], "run_id"),
        (["run_id="], "run_id"),
        (["cluster.workers=0"], "workers"),
        (["sharding.videos_per_shard=0"], "videos_per_shard"),
        (["prices.usd_per_gpu_hour=1"], "usd_per_cpu_hour"),
        (["audit.share=1.5"], "audit"),
        (["audit.share=-0.1"], "share must lie between 0 and 1"),
        (["audit.share=nan"], "share must lie between 0 and 1"),
        (["audit.share=much"], "audit.share"),
        (["audit.share=true"], "audit.share"),
        (["audit.min_videos=0"], "min_videos"),
        (["audit.surprise=1"], "surprise"),
        (["alarms.min_audit_agreement=95"], "min_audit_agreement"),
        (["alarms.max_student_drift=0"], "max_student_drift"),
        (["alarms.max_failed_share=few"], "alarms.max_failed_share"),
        (["alarms.surprise=1"], "surprise"),
        (["prices.usd_per_cpu_hour=1", "prices.devices.tpu=1"], "tpu"),
        (["relabel"], "--set relabel"),
        (["run_id=a", "run_id.deeper=1"], "run_id"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_one_config_error_that_names_it(assignments, key):
    with pytest.raises(ConfigError) as raised:
        _load(*assignments)
    assert key in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("budget.usd=0", "budget: usd must be above 0, got 0.0; escalation.kind = dense_student spends nothing"),
        ("budget.usd=5", "configuration: budget.usd needs a price table: set prices"),
        ("audit.share=1.5", "audit: share must lie between 0 and 1, got 1.5"),
        ("alarms.max_failed_share=few", "alarms.max_failed_share: Input should be a valid number (got 'few')"),
    ],
)
def test_a_message_ends_with_the_value_but_not_with_a_whole_table(assignment, said):
    with pytest.raises(ConfigError) as raised:
        _load(assignment)
    assert str(raised.value) == said


@pytest.mark.parametrize("missing", ["source", "out"])
def test_source_and_out_are_needed(missing):
    with pytest.raises(ConfigError, match=f"{missing}: is missing"):
        load_config(None, [], {name: place for name, place in PLACES.items() if name != missing})


@pytest.mark.parametrize("content", [b"source = ", b"a = 1\na = 2", b"\xff\xfe\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml: is not TOML"):
        load_config(file, [], PLACES)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)


def test_no_file_is_no_settings():
    assert read_toml(None) == {}


def test_planning_gets_what_it_needs_and_the_resolved_text():
    config = _load("escalation.kind=dense_student", corpus_name="c", run_id="r")
    request = to_request(config)
    assert (request.source, request.out, request.corpus, request.run_id) == ("/videos", "/tables", "c", "r")
    assert request.policy == config.escalation
    assert tomllib.loads(request.config_toml)["escalation"] == {"kind": "dense_student"}


def test_settings_of_training_come_from_file_and_set(tmp_path):
    settings = load_settings(TrainSettings, _write(tmp_path, "seed = 4\n[teacher]\nsteps = 10\n"), ["teacher.steps=20"])
    assert (settings.seed, settings.teacher.steps) == (4, 20)


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("surprise=1", "surprise"),
        ("seed=-1", "seed"),
        ("teacher.steps=1", "teacher.steps"),
        ("student.steps=many", "student.steps"),
        ("label_kind=some", "label_kind"),
        ("confidence.target=magic", "confidence.target"),
        ("confidence.origin=elsewhere", "confidence.origin"),
        ("student.geometry={frames=0, height=16, width=16}", "frames"),
    ],
)
def test_a_setting_of_training_that_cannot_be_is_named(assignment, key):
    with pytest.raises(ConfigError, match=key):
        load_settings(TrainSettings, None, [assignment])


def test_a_data_set_may_name_videos_where_corpus_roots_says_so(tmp_path):
    file = _write(tmp_path, 'seed = 4\n[corpus]\nroots = ["/footage"]\n')
    assert load_dataset_settings(TrainSettings, file, ["seed=5"]) == (
        TrainSettings(seed=5),
        CorpusRules(roots=("/footage",)),
    )
    assert load_dataset_settings(TrainSettings, None, []) == (TrainSettings(), CorpusRules())


@pytest.mark.parametrize("assignment", ["corpus.rots=[]", "corpus.roots=7", "corpus=7", "surprise=1"])
def test_a_bad_setting_of_a_data_set_is_named(assignment):
    with pytest.raises(ConfigError) as refused:
        load_dataset_settings(TrainSettings, None, [assignment])
    assert assignment.partition("=")[0] in str(refused.value)


def test_options_of_compose_win_over_assignments_and_those_over_the_file(tmp_path):
    file = tmp_path / "compose.toml"
    file.write_text('seed = 1\ndistractors = 0.1\nheight = 48\n[corpus]\nroots = ["/footage"]\n')
    settings = load_settings(ComposeSettings, file, ["seed=2", "distractors=0.2"], {"distractors": 0.3, "seed": None})
    assert (settings.height, settings.seed, settings.distractors) == (48, 2, 0.3)
    assert settings.corpus.roots == ("/footage",)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [("colour=1", "colour: unknown setting"), ("width=15", "even"), ("corpus.rots=[]", "corpus.rots: unknown setting")],
)
def test_a_bad_setting_of_compose_is_named(assignment, said):
    with pytest.raises(ConfigError) as refused:
        load_settings(ComposeSettings, None, [assignment], {})
    assert said in str(refused.value)
