from __future__ import annotations

from datetime import UTC, datetime

import pytest

from storage.alias_history import (
    AliasMove,
    MoveAction,
    is_alias,
    is_version,
    move_from_bytes,
    move_to_bytes,
    rollback_target,
)

A, B, C, D = (f"m-{letter * 12}" for letter in "abcd")


def _moves(*versions: str | tuple[MoveAction, str]) -> list[AliasMove]:
    moves: list[AliasMove] = []
    for number, given in enumerate(versions, start=1):
        action, version = ("promote", given) if isinstance(given, str) else given
        moves.append(
            AliasMove(
                alias="production",
                number=number,
                model_version=version,
                previous=moves[-1].model_version if moves else None,
                action=action,
                moved_at=datetime(2026, 11, 23, 12, number, tzinfo=UTC),
                moved_by="somebody@somewhere",
                reason="",
                move_id=str(number),
            )
        )
    return moves


def _back(version: str) -> tuple[MoveAction, str]:
    return "rollback", version


@pytest.mark.parametrize(
    ("history", "target"),
    [
        ([], None),
        ([A], None),
        ([A, B], A),
        ([A, B, C], B),
        ([A, B, C, _back(B)], A),
        ([A, B, C, _back(B), _back(A)], None),
        ([A, B, C, _back(B), D], B),
        ([A, B, C, _back(B), C], B),
        ([A, B, C, _back(A), C], A),
        ([A, A], None),
        ([A, B, B], A),
        ([A, B, A], B),
        ([A, B, A, _back(B)], None),
    ],
)
def test_a_rollback_leads_one_version_further_back_and_never_to_one_that_was_left(history, target):
    assert rollback_target(_moves(*history), {A, B, C, D}) == target


def test_a_rollback_passes_over_versions_that_are_gone():
    assert rollback_target(_moves(A, B, C), {A, C}) == A
    assert rollback_target(_moves(A, B, C), {C}) is None


def test_a_move_is_read_as_it_was_written_and_nothing_else_is_one():
    (move,) = _moves(A)
    assert move_from_bytes(move_to_bytes(move)) == move
    assert move_from_bytes(move_to_bytes(move)[:-20]) is None
    assert move_from_bytes(b"{}") is None


def test_names_of_aliases_and_of_bundles_are_told_apart():
    for name in ("production", "candidate", "weekly.2026-48", "m-production", "a"):
        assert is_alias(name), name
        assert not is_version(name), name
    for name in ("", "Production", "1st", "m-0123456789ab", "a/b", "..", "a b", "ä", "production\n", "x" * 65):
        assert not is_alias(name), name
    assert is_version("m-0123456789ab")
