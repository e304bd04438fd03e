from __future__ import annotations

from pathlib import Path

import pytest
from run_builders import finished_run, video

from cdmodel.errors import ConfigError, DamagedObject, StorageUnavailable
from storage.filesystem import Store, open_store
from storage.views import run_query


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@pytest.mark.parametrize("sql", ["", " ; ", "-- nothing"])
def test_an_empty_query_says_what_to_ask(store: Store, sql: str):
    with pytest.raises(ConfigError, match="is empty"):
        run_query(store, sql)


@pytest.mark.parametrize("sql", ["selec 1", "select * from nowhere", "select 'x'::int", "select \udcff"])
def test_a_wrong_query_is_one_line(store: Store, sql: str):
    with pytest.raises(ConfigError) as caught:
        run_query(store, sql)
    assert "\n" not in str(caught.value)


def test_a_published_file_that_is_gone_is_named(store: Store):
    (file,) = finished_run(store, "r1", [video("a")]).files
    store.delete(file.name)
    with pytest.raises(StorageUnavailable, match="does not exist") as caught:
        run_query(store, "select 1")
    assert caught.value.subject == store.uri_of(file.name)


def test_a_published_file_that_was_cut_is_named(store: Store):
    (file,) = finished_run(store, "r1", [video("a")]).files
    content = store.read(file.name)
    store.delete(file.name)
    store.create(file.name, content[:-30])
    with pytest.raises(DamagedObject) as caught:
        run_query(store, "select 1")
    assert caught.value.subject == store.uri_of(file.name)
