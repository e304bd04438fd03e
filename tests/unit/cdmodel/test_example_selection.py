"""Which labeled videos become examples, in which role, and how much each counts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmodel.example_selection import LEARNED, Correction, Example, LabeledRow, role_of, select_examples
from cdmodel.example_settings import CollectSettings
from cdmodel.splits import SPLIT_SHARES

LABELS = ("jump", "run", "sit")
SETTINGS = CollectSettings(class_balance=0.0)


def group_in(role: str, number: int = 0) -> str:
    """Return the name of a group that has the role."""
    return next(name for name in (f"g{number}-{place}" for place in range(1000)) if role_of(name) == role)


def row(name: str, role: str = "train", **changes: Any) -> LabeledRow:
    facts: dict[str, Any] = {
        "video_id": name,
        "uri": f"/v/{name}",
        "video_version": name,
        "size_bytes": 100,
        "group": group_in(role),
        "label": "jump",
        "confidence": 0.9,
        "escalated": True,
        "teacher_label": None,
        "audit_share": 0.1,
        "run_id": "r1",
        "model_version": "m-1",
    }
    return LabeledRow(**{**facts, **changes})


def correction(name: str, label: str) -> dict[str, Correction]:
    return {f"/v/{name}": Correction(uri=f"/v/{name}", label=label, by="ann", at=None, note="seen")}


def only(rows: list[LabeledRow], settings: CollectSettings = SETTINGS) -> Example:
    [example] = select_examples(rows, {}, LABELS, settings).examples
    return example


def test_roles_follow_from_the_name_for_ever_in_the_shares_of_training() -> None:
    assert [role_of(f"recording-{number}") for number in range(8)] == [
        *("test", "test", "train", "cal", "risk", "risk", "risk", "test"),
    ], "groups that changed their role would let a cycle learn from what judged another"
    found = Counter(role_of(str(number)) for number in range(20_000))
    for role, share in SPLIT_SHARES:
        assert found[role] / 20_000 == pytest.approx(share, abs=0.015)


def test_an_audited_video_carries_the_teachers_answer_and_stands_for_those_not_drawn() -> None:
    example = only([row("a", escalated=False, teacher_label="run", audit_share=0.2)])
    assert (example.label, example.source, example.weight) == ("run", "audit", 5.0)
    rare = only([row("a", escalated=False, teacher_label="run", audit_share=0.001)])
    assert rare.weight == SETTINGS.max_weight


def test_an_audited_video_that_was_escalated_anyway_stands_for_itself() -> None:
    assert only([row("a", teacher_label="run")]).weight == 1.0
    unsure = only([row("a", teacher_label="run", confidence=0.5)])
    assert unsure.weight == 10.0, "it would not have come in by itself"


def test_an_escalated_video_is_learned_from_where_its_label_is_sure_and_never_measured_on() -> None:
    example = only([row("a")])
    assert (example.label, example.source, example.split) == ("jump", "escalated", "train")
    selection = select_examples([row("a", confidence=0.5), row("b", "test"), row("c", "cal")], {}, LABELS, SETTINGS)
    assert selection.examples == ()
    assert (selection.left_out.unsure, selection.left_out.role) == (1, 2)


def test_a_person_is_believed_before_any_model() -> None:
    rows = [row("a", "test", teacher_label="run"), row("b", "train", escalated=False, confidence=0.1)]
    said = correction("a", "sit") | correction("b", "run")
    first, second = select_examples(rows, said, LABELS, SETTINGS).examples
    assert (first.label, first.source, first.split, first.by, first.note) == (
        "sit",
        "correction",
        "test",
        "ann",
        "seen",
    )
    assert (second.label, second.source, second.split) == ("run", "correction", "train")


def test_a_correction_of_what_nobody_drew_is_no_fair_yardstick() -> None:
    selection = select_examples([row("a", "test", escalated=False)], correction("a", "sit"), LABELS, SETTINGS)
    assert selection.examples == ()


def test_labels_that_the_next_bundle_does_not_know_are_left_out_and_counted() -> None:
    selection = select_examples([row("a", label="dance"), row("b")], {}, LABELS, SETTINGS)
    assert [example.uri for example in selection.examples] == ["/v/b"]
    assert selection.left_out.unknown_label == 1


def test_the_same_bytes_under_two_names_are_one_example() -> None:
    rows = [row("b", video_version="same"), row("a", video_version="same"), row("c", size_bytes=None)]
    selection = select_examples(rows, {}, LABELS, SETTINGS)
    assert [example.uri for example in selection.examples] == ["/v/a", "/v/c"]
    assert selection.left_out.duplicate == 1


def test_of_the_same_bytes_the_name_that_a_person_has_looked_at_stays() -> None:
    rows = [row("a", video_version="same"), row("b", video_version="same"), row("c")]
    selection = select_examples(rows, correction("b", "sit"), LABELS, SETTINGS)
    assert [(example.uri, example.label) for example in selection.examples] == [("/v/b", "sit"), ("/v/c", "jump")]


def test_an_audit_whose_label_nobody_can_name_is_not_learned_as_the_cascades_own_answer() -> None:
    selection = select_examples([row("a", escalated=False, teacher_label=None)], {}, LABELS, SETTINGS)
    assert (selection.examples, selection.left_out.unknown_label) == ((), 1)


def test_rare_classes_weigh_more_by_as_much_as_was_asked_for() -> None:
    rows = [row(f"j{number}", size_bytes=None) for number in range(9)] + [row("r", label="run", size_bytes=None)]
    for strength, expected in ((0.0, 1.0), (0.5, 3.0), (1.0, 9.0)):
        examples = select_examples(rows, {}, LABELS, CollectSettings(class_balance=strength)).examples
        weights = {example.label: example.weight for example in examples}
        assert weights["run"] / weights["jump"] == pytest.approx(expected)


def test_too_many_are_thinned_evenly_and_those_who_stay_stand_for_the_rest() -> None:
    rows = [row(f"j{number:03d}", size_bytes=None) for number in range(80)]
    rows += [row(f"r{number:03d}", label="run", size_bytes=None) for number in range(8)]
    settings = CollectSettings(class_balance=0.0, max_videos=20)
    selection = select_examples(rows, correction("j000", "sit"), LABELS, settings)
    found = Counter(example.label for example in selection.examples)
    assert found == {"jump": 11, "run": 8, "sit": 1}
    assert selection.left_out.too_many == 88 - len(selection.examples)
    assert {example.weight for example in selection.examples if example.label == "run"} == {1.0}
    assert [e.weight for e in selection.examples if e.label == "jump"] == pytest.approx([79 / 11] * 11)


@given(st.permutations(range(30)), st.integers(0, 3))
def test_the_order_of_the_rows_decides_nothing(order: list[int], seed: int) -> None:
    rows = [
        row(
            f"v{number:02d}",
            ("train", "conf", "cal", "test")[number % 4],
            label=LABELS[number % 3],
            confidence=number / 30,
            teacher_label=LABELS[number % 2] if number % 5 == 0 else None,
            size_bytes=number % 7,
            video_version=str(number % 11),
        )
        for number in range(30)
    ]
    settings = CollectSettings(max_videos=6, seed=seed)
    assert select_examples([rows[place] for place in order], {}, LABELS, settings) == select_examples(
        rows, {}, LABELS, settings
    )


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans(), st.floats(0, 1)), max_size=60))
def test_what_measures_was_drawn_at_random_and_no_group_is_on_two_sides(
    drawn: list[tuple[int, bool, bool, float]],
) -> None:
    rows = [
        row(
            f"v{number}",
            group=f"g{group}",
            size_bytes=None,
            escalated=escalated,
            teacher_label="run" if audited else None,
            confidence=confidence,
        )
        for number, (group, escalated, audited, confidence) in enumerate(drawn)
    ]
    examples = select_examples(rows, {}, LABELS, CollectSettings()).examples
    assert all(example.source == "audit" for example in examples if example.split not in LEARNED)
    assert all(example.split == role_of(example.group) for example in examples)
    assert all(example.weight > 0 for example in examples)


@pytest.mark.parametrize(
    "wrong",
    [{"min_confidence": 1.5}, {"class_balance": -0.1}, {"max_age_days": 0.0}, {"max_videos": 1}, {"max_weight": 0.5}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CollectSettings(**wrong)
