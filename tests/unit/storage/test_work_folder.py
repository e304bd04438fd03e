from __future__ import annotations

import pytest

from cdmodel.errors import OutputError
from storage.work_folder import hold_work_folder


def test_what_was_written_is_there_when_the_same_work_goes_on(tmp_path):
    with hold_work_folder(tmp_path / "bundle", "k") as work:
        work.write("step", b"1")
        work.write("step", b"2")
    with hold_work_folder(tmp_path / "bundle", "k") as again:
        assert again.read("step") == b"2"
        assert again.read("other") is None
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.work"]


def test_other_work_for_the_same_target_is_refused_naming_the_folder(tmp_path):
    with hold_work_folder(tmp_path / "bundle", "k"):
        pass
    with (
        pytest.raises(OutputError, match=r"\.bundle\.work holds an unfinished training"),
        hold_work_folder(tmp_path / "bundle", "other"),
    ):
        pass


def test_a_damaged_key_is_refused_like_another_one(tmp_path):
    with hold_work_folder(tmp_path / "bundle", "k") as work:
        work.write("work.json", b"{")
    with pytest.raises(OutputError, match="unfinished training"), hold_work_folder(tmp_path / "bundle", "k"):
        pass


def test_two_cannot_work_on_one_target_at_a_time(tmp_path):
    with (
        hold_work_folder(tmp_path / "bundle", "k"),
        pytest.raises(OutputError, match="another process"),
        hold_work_folder(tmp_path / "bundle", "k"),
    ):
        pass
    with hold_work_folder(tmp_path / "bundle", "k"):
        pass


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"), hold_work_folder(tmp_path / "file" / "bundle", "k"):
        pass


def test_finished_work_leaves_nothing(tmp_path):
    with hold_work_folder(tmp_path / "bundle", "k") as work:
        work.write("step", b"1")
        work.remove()
    assert list(tmp_path.iterdir()) == []
