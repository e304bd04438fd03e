"""Keys with every character that means something somewhere, from the listing to the answer of a query."""

from __future__ import annotations

import pytest
from run_builders import finished_run
from s3_endpoint import IS_REAL, s3_client

from storage.corpus import CorpusRules, list_videos
from storage.filesystem import open_store
from storage.video_file import open_video
from storage.views import read_predictions, run_query
from tasks.verify_output import verify_output

KEYS = (
    "plain.mp4",
    "a b  c.mp4",
    'it\'s "quoted" `so`.mp4',
    "100%+1%20&a=b;c?d#e.mp4",
    "%2e%2e%2fup.mp4",
    "Käse 日本 🎬.mp4",
    "{x}[1]*?.mp4",
    "run_date=2020-01-01/model_version=x/a.mp4",
    "back\\slash.mp4",
    "//twice.mp4",
    *(["two\nlines\tand a tab.mp4"] if IS_REAL else []),  # moto knows no such path
)
PREFIXES = ("my 'films' \"2\" a=b/run_date=1 #?%41+", "日本/100%")


@pytest.mark.parametrize("out", PREFIXES)
def test_every_name_comes_out_as_it_went_in(out: str, bucket: str, s3_environment: dict[str, str]):
    client = s3_client(s3_environment)
    for key in (*KEYS, "folder/", "folder.mp4/"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"films/{key}", Body=key.encode())
    client.close()
    videos = list_videos(f"{bucket}/films", CorpusRules()).videos
    assert {of.uri for of in videos} == {f"{bucket}/films/{key}" for key in KEYS}
    for of in videos:
        with open_video(of) as file:
            assert file.read().decode() == of.uri.removeprefix(f"{bucket}/films/")
    store = open_store(f"{bucket}/{out}")
    ordered = sorted(videos, key=lambda of: of.video_id)
    finished_run(store, "r1", ordered[:4], ordered[4:])
    assert verify_output(store.root) == ()
    found = run_query(
        store, "select video_id, uri, run_date::varchar, model_version from predictions order by video_id"
    )
    assert found.rows == tuple((of.video_id, of.uri, "2026-11-23", "m-0123456789ab") for of in ordered)
    assert read_predictions(store.root).to_table(columns=["uri"]).num_rows == len(KEYS)
    assert {item.name.split("/")[0] for item in store.list()} == {"predictions", "runs", "runs_table"}
