from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scored_videos import LABELS, scored_role, scoring_context

from cdmodel.ablation import ArmAnswers
from cdmodel.aggregation import LogPool
from cdmodel.bundle import BundleManifest
from cdmodel.calibration_fit import fit_calibration
from cdmodel.errors import OutputError, SourceError
from cdmodel.evaluation import EvaluationSettings, Subject
from cdmodel.policies import Gain
from cdmodel.score_entry import ScoredEntry
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import LabeledVideo, VideoRef
from tasks.evaluate_bundle import build_report, choose_videos, evaluate_bundle
from tasks.evaluation_document import Report, hash_dataset, to_document, to_text
from tasks.evaluation_settings import EvaluateSettings, EvaluationProgress
from tasks.evaluation_tables import to_tables
from tasks.plot_evaluation import plot_evaluation
from tasks.score_dataset import ScoredDataset

POINT_KEYS = {
    "policy",
    "aggregation",
    "setting",
    "accuracy",
    "accuracy_ci95",
    "flops_per_video",
    "seconds_per_video",
    "saved_flops_share",
    "saved_seconds_share",
    "escalated_clip_share",
    "harmful_flips",
    "helpful_flips",
}
DENSE_KEYS = {"accuracy", "flops_per_video", "seconds_per_video", "decode_seconds_per_video"}


@pytest.fixture(scope="module")
def cal() -> tuple[ScoredEntry, ...]:
    return scored_role("cal", 16)


@pytest.fixture(scope="module")
def test_entries() -> tuple[ScoredEntry, ...]:
    return scored_role("test", 24)


@pytest.fixture(scope="module")
def report(cal, test_entries) -> Report:
    arm = [ArmAnswers(cal=[entry.answers for entry in cal], test=[entry.answers for entry in test_entries])]
    return _report(cal, test_entries, {"A2": arm, "A8": arm})


def _report(cal, test_entries, arms=None) -> Report:
    context = scoring_context()
    subject = Subject(
        model_version=context.model_version,
        label_kind="single",
        calibration=fit_calibration([entry.answers for entry in cal], "single"),
        policy=Gain(min_gain=0.1),
        aggregation=LogPool(),
        flops=context.flops,
        risk=None,
    )
    scored = ScoredDataset(context=context, entries=(*cal, *test_entries), unreadable=())
    videos = [entry.video for entry in scored.entries]
    return build_report(
        "set.csv", videos, scored, subject, arms or {}, EvaluationSettings(epsilon=0.02, delta=0.1, seed=0)
    )


def test_the_document_has_every_key_of_the_contract(report):
    document = json.loads(to_text(to_document(report)))
    assert document["schema_version"] == 1
    assert document["model_version"] == "m-000000000001"
    assert document["seeds"] == [0]
    assert {"videos", "groups", "classes", "sha256"} <= document["dataset"].keys()
    assert (document["dataset"]["videos"], document["dataset"]["groups"]) == (40, 20)
    assert document["dense_teacher"].keys() >= DENSE_KEYS
    assert document["dense_student"].keys() >= DENSE_KEYS
    assert document["default"].keys() >= POINT_KEYS
    assert document["at_parity"].keys() >= {
        "tolerance_points",
        "policy",
        "accuracy",
        "saved_flops_share",
        "saved_seconds_share",
    }
    for side in ("policies", "baselines"):
        assert document[side]
        assert all(point.keys() >= POINT_KEYS for point in document[side])
    assert {"video_ece", "q_teacher_ece", "q_student_ece", "q_teacher_auroc", "augrc"} <= document["calibration"].keys()
    assert {"epsilon", "delta", "groups", "setting", "harm_on_test"} <= document["certified"].keys()
    assert document["ablations"]["A2"].keys() >= {"auc_cost", "ci95"}
    assert document["ablations"]["A8_minus_A2"].keys() == {"auc_cost", "ci95"}


def test_the_document_holds_no_nan_and_at_most_six_digits(report):
    numbers = list(_numbers(to_document(report)))
    assert len(numbers) > 1000
    assert all(math.isfinite(number) for number in numbers)
    assert all(number == float(f"{number:.6g}") for number in numbers)


def test_the_same_scores_give_the_same_document(report, cal, test_entries):
    arm = [ArmAnswers(cal=[entry.answers for entry in cal], test=[entry.answers for entry in test_entries])]
    again = _report(cal, test_entries, {"A2": arm, "A8": arm})
    assert to_text(to_document(again)) == to_text(to_document(report))


def test_no_setting_and_no_cost_depends_on_the_labels_of_test(report, cal, test_entries):
    order = np.random.default_rng(3).permutation(len(test_entries))
    shuffled = tuple(
        replace(
            entry,
            video=replace(entry.video, labels=test_entries[other].video.labels),
            answers=replace(entry.answers, truth_K=test_entries[other].answers.truth_K),
        )
        for entry, other in zip(test_entries, order.tolist(), strict=True)
    )
    before, after = report.evaluation, _report(cal, shuffled).evaluation
    assert before.dense_teacher.accuracy != after.dense_teacher.accuracy, "the labels were not shuffled"
    for side in ("policies", "baselines"):
        points, others = (
            [_choice(point) for point in getattr(evaluation, side) if not point.policy.startswith("oracle")]
            for evaluation in (before, after)
        )
        assert points == others
    assert _choice(before.default) == _choice(after.default)
    assert (before.at_parity.policy, before.at_parity.setting) == (after.at_parity.policy, after.at_parity.setting)
    assert before.requested_and_realised == after.requested_and_realised


def test_the_best_subset_bounds_every_policy_under_the_plain_mean(report):
    """The greedy oracle asks for whatever makes a video right, if any order of clips does so."""
    points = [p for p in (*report.evaluation.policies, *report.evaluation.baselines) if p.aggregation == "mean"]
    oracle = next(p for p in points if p.policy == "oracle_subset")
    # Policies that drop clips, or run no student, answer from other clips than the oracle may.
    over_all_clips = [
        p for p in points if p.policy in {"gain", "video_gain", "video_rank", "sequential", "max_prob", "random_mix"}
    ]
    assert len(over_all_clips) > 30
    assert all(p.accuracy <= oracle.accuracy for p in over_all_clips)
    assert oracle.flops_per_video < report.evaluation.dense_teacher.flops_per_video


def test_the_details_agree_with_the_points(report):
    default, flips = report.evaluation.default, report.details.flips
    assert (flips.harmful, flips.helpful) == (default.harmful_flips, default.helpful_flips)
    assert flips.both_right + flips.harmful + flips.helpful + flips.both_wrong == 24
    for slices in (report.details.by_class, report.details.by_length):
        assert sum(piece.videos for piece in slices) == 24
        mean = sum(piece.videos * piece.accuracy for piece in slices) / 24
        assert mean == pytest.approx(default.accuracy)
    assert report.details.risk_coverage["default"].selective_risk_V[-1] == pytest.approx(1 - default.accuracy)


def test_the_tables_show_what_was_measured(report):
    tables = to_tables(report)
    assert f"| dense teacher | {100 * report.evaluation.dense_teacher.accuracy:.1f} % |" in tables
    for heading in ("Headline", "same cost", "Ablations", "Calibration", "Certificate", "Flips", "Who is escalated"):
        assert heading in tables
    for line in tables.splitlines():
        assert "nan" not in line
        assert not line.startswith("|") or line.endswith("|")


def test_every_plot_is_a_picture_in_both_formats(report):
    plots = plot_evaluation(report)
    names = {
        "accuracy_cost",
        "accuracy_cost_plain_mean",
        "reliability",
        "risk_coverage",
        "escalated_share",
        "ablations",
    }
    assert plots.keys() == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    for name, data in plots.items():
        assert data.startswith(b"\x89PNG") if name.endswith("png") else b"</svg>" in data
        assert 5_000 < len(data) < 400_000, name
    assert b"dense teacher" in plots["accuracy_cost.svg"]


def test_the_hash_of_a_data_set_sees_labels_and_roles_and_not_the_order():
    videos = [entry.video for entry in scored_role("test", 4)]
    assert hash_dataset(videos) == hash_dataset(videos[::-1])
    assert hash_dataset(videos) != hash_dataset([replace(videos[0], labels=("other",)), *videos[1:]])
    assert hash_dataset(videos) != hash_dataset([replace(videos[0], split="cal"), *videos[1:]])


def test_labels_that_the_bundle_does_not_know_are_named(manifest):
    videos = [entry.video for entry in (*scored_role("cal", 4), *scored_role("test", 4))]
    videos[-1] = replace(videos[-1], labels=("juggle",))
    with pytest.raises(SourceError, match="juggle"):
        choose_videos("set.csv", videos, manifest, EvaluateSettings())


def test_unknown_labels_may_be_counted_as_wrong_but_not_all_of_them(manifest):
    videos = [entry.video for entry in (*scored_role("cal", 4), *scored_role("test", 4))]
    settings = EvaluateSettings(unknown_labels="wrong")
    some = [*videos[:-1], replace(videos[-1], labels=("juggle",))]
    assert choose_videos("set.csv", some, manifest, settings) == tuple(some)
    none = [replace(video, labels=("juggle",)) for video in videos]
    with pytest.raises(SourceError, match="knows none of the labels of cal"):
        choose_videos("set.csv", none, manifest, settings)


@pytest.mark.parametrize("role", ["cal", "test"])
def test_a_missing_role_is_named(manifest, role):
    other = "test" if role == "cal" else "cal"
    with pytest.raises(SourceError, match=f"role {role}"):
        choose_videos("set.csv", [e.video for e in scored_role(other, 6)], manifest, EvaluateSettings())


def test_videos_of_other_roles_are_left_out_and_may_have_other_labels(manifest):
    train = replace(scored_role("train", 1)[0].video, labels=("juggle",))
    wanted = [entry.video for entry in (*scored_role("cal", 4), *scored_role("test", 4))]
    assert choose_videos("set.csv", [train, *wanted], manifest, EvaluateSettings()) == tuple(wanted)


def test_fresh_videos_are_divided_by_group_whatever_roles_they_had(manifest):
    videos = [entry.video for entry in scored_role("train", 40)]
    chosen = choose_videos("set.csv", videos, manifest, EvaluateSettings(roles="fresh"))
    sides = {role: {video.group for video in chosen if video.split == role} for role in ("cal", "test")}
    assert len(chosen) == 40
    assert (len(sides["cal"]), len(sides["test"])) == (6, 14)
    assert not sides["cal"] & sides["test"]


def test_without_roles_the_division_of_training_is_found_again(manifest):
    videos = [replace(entry.video, split=None) for entry in scored_role("train", 60)]
    trained = replace(manifest, provenance={"settings": {"seed": 7}})
    chosen = choose_videos("set.csv", videos, trained, EvaluateSettings())
    assert chosen == choose_videos("set.csv", videos, trained, EvaluateSettings(seed=1))
    assert chosen != choose_videos("set.csv", videos, manifest, EvaluateSettings())


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> BundleManifest:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "b", labels=LABELS)


@pytest.fixture
def videos(tmp_path) -> list[LabeledVideo]:
    (tmp_path / "videos").mkdir()
    found = []
    for number in range(8):
        path = tmp_path / "videos" / f"{number}.mkv"
        path.write_bytes(b"no video" if number == 7 else encode_numbered_clips(1 + number % 3))
        ref = VideoRef(video_id=path.name, uri=str(path), video_version="1", size_bytes=path.stat().st_size)
        found.append(
            LabeledVideo(
                video=ref, labels=(LABELS[number % 2],), group=str(number), split="cal" if number < 3 else "test"
            )
        )
    return found


def test_an_evaluation_writes_its_files_and_a_second_one_runs_no_network(tmp_path, videos):
    write_tiny_bundle(tmp_path / "bundle", labels=LABELS)
    out, seen = tmp_path / "out", []
    settings = EvaluateSettings(videos_per_part=3)
    evaluated = evaluate_bundle("s", videos, str(tmp_path / "bundle"), str(out), settings, seen.append)
    assert {path.name for path in out.iterdir()} >= {"evaluation.json", "tables.md", "plots", "scores"}
    assert json.loads((out / "evaluation.json").read_text()) == evaluated.document
    assert len(list((out / "scores").glob("*.parquet"))) == 3
    assert [video.uri for video in evaluated.unreadable] == [videos[7].video.uri]
    assert evaluated.document["dataset"]["videos"] == 7
    assert EvaluationProgress(stage="score", done=8, total=8) in seen
    replays = [progress for progress in seen if progress.stage == "replay"]
    assert [progress.done for progress in replays] == list(range(replays[0].total + 1))
    assert replays[0].total > 100

    for video in videos:
        (tmp_path / "videos" / video.video.video_id).unlink()
    again = evaluate_bundle("s", videos, str(tmp_path / "bundle"), str(out), settings, seen.append)
    assert again.document == evaluated.document


def test_no_answer_to_a_video_of_an_unknown_label_is_right(tmp_path, videos):
    """Nor is any policy's, a perfect choice of clips by an oracle included."""
    write_tiny_bundle(tmp_path / "bundle", labels=LABELS)
    strange = [
        replace(video, labels=("juggle",)) if number in (1, 4, 5) else video for number, video in enumerate(videos)
    ]
    evaluated = evaluate_bundle(
        "s",
        strange,
        str(tmp_path / "bundle"),
        str(tmp_path / "out"),
        EvaluateSettings(unknown_labels="wrong"),
        lambda _: None,
    )
    document = evaluated.document
    assert document["dataset"]["labels_unknown"] == ["juggle"]
    points = [*document["policies"], *document["baselines"]]
    assert max(point["accuracy"] for point in points) <= 2 / 4
    by_class = {part.name: part for part in evaluated.report.details.by_class}
    unknown = by_class["(labels the bundle does not know)"]
    assert (unknown.videos, unknown.accuracy, unknown.dense_teacher_accuracy) == (2, 0.0, 0.0)


def test_an_out_that_holds_something_else_is_refused(tmp_path, videos):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    write_tiny_bundle(tmp_path / "bundle", labels=LABELS)
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        evaluate_bundle(
            "s", videos, str(tmp_path / "bundle"), str(tmp_path / "out"), EvaluateSettings(), lambda _: None
        )


def _choice(point):
    return point.policy, point.aggregation, point.setting, point.flops_per_video, point.escalated_clip_share


def _numbers(value):
    match value:
        case dict():
            for item in value.values():
                yield from _numbers(item)
        case list():
            for item in value:
                yield from _numbers(item)
        case float():
            yield value
