"""Three nights of a served schedule on a growing corpus, read all the time: what is labeled, and what dies and is refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError

import pytest
import tomli_w
from served_nights import Analyst, Prefect, Served, dask_cluster, listener, wait_for

import cdmodel
from storage.filesystem import open_store
from storage.views import run_query
from tasks.verify_output import verify_output

FIRST, SECOND, THIRD = 4, 10, 11
"""Videos that are there in each night."""
DEPLOYMENT = "label-nightly/three-nights"


def test_a_served_schedule_refuses_wrong_settings_and_a_second_run_and_tells_of_a_run_that_failed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Its videos are gone, which is found before a cluster is started."""
    prefect = Prefect(environment["PREFECT_API_URL"])
    config, settings = tmp_path / "nightly.toml", {"source": str(tmp_path / "gone"), "out": str(tmp_path / "out")}
    with listener() as (url, told):
        prefect.add_webhook("failures", url)
        schedule = {"cron": "0 2 * * *", "name": "gone", "notify": "webhook/failures"}
        config.write_text(tomli_w.dumps({**settings, "schedule": schedule}))
        with Served(config, environment) as served:
            two = [prefect.start_run("label-nightly/gone"), prefect.start_run("label-nightly/gone")]
            with pytest.raises(HTTPError, match="409"):
                prefect.start_run("label-nightly/gone", parameters={"config": {**settings, "wrkers": 2}})
            ends = dict(prefect.end_of(run) for run in two)
            assert set(ends) == {"FAILED", "CANCELLED"}, served.said()
            assert ends["CANCELLED"] == "Deployment concurrency limit reached."
            assert str(tmp_path / "gone") in ends["FAILED"]
            wait_for("the automation to tell of it", lambda: "gone" in "".join(told) or None)
            assert "mend what the message names" in served.said()
            nights = wait_for("the server to plan nights", lambda: prefect.scheduled("gone") or None)
            assert {night["expected_start_time"][11:16] for night in nights} == {"02:00"}
            assert served.end(signal.SIGINT, group=True) == 130
    assert prefect.ask("deployments/name/label-nightly/gone")["paused"]
    assert not (tmp_path / "out").exists()


@pytest.mark.matrix  # two minutes of CPU: make test-faults
@pytest.mark.timeout(900)
def test_three_nights_label_what_is_new_make_good_for_a_crash_and_never_show_half_a_run(
    corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    videos, out, bundle = tmp_path / "videos", tmp_path / "out", tmp_path / "production"
    shutil.copytree(Path(cdmodel.__file__).parent / "demo_bundle", bundle)
    prefect = Prefect(environment["PREFECT_API_URL"])
    with dask_cluster(environment) as scheduler, listener() as (url, told), Analyst(out) as analyst:
        prefect.add_webhook("ops", url)
        config = tmp_path / "nightly.toml"
        settings = {
            "source": str(videos),
            "out": str(out),
            "models": {"bundle": str(bundle)},
            "sharding": {"videos_per_shard": 1},
            "cluster": {"scheduler": scheduler},
            "schedule": {"cron": "0 2 * * *", "name": "three-nights", "notify": "webhook/ops"},
        }
        config.write_text(tomli_w.dumps(settings))
        add_videos(corpus, videos, FIRST)
        with Served(config, environment) as served:
            assert prefect.runs_tagged("catch-up") == []
            first = prefect.start_run(DEPLOYMENT)
            assert prefect.end_of(first)[0] == "COMPLETED", served.said()
            assert labeled(out) == {model_of(out): FIRST}

            add_videos(corpus, videos, SECOND)
            two = [prefect.start_run(DEPLOYMENT), prefect.start_run(DEPLOYMENT)]
            wait_for("a shard of the second night", lambda: shards(out) > FIRST or None, every=0.002)
            served.kill()
        assert labeled(out) == {model_of(out): FIRST}
        stood = shards(out)
        assert FIRST < stood < SECOND, "the crash was to come while the second night was labeled"
        states = {prefect.ask(f"flow_runs/{run}")["state"]["type"]: run for run in two}
        assert set(states) == {"RUNNING", "CANCELLED"}
        assert prefect.end_of(states["CANCELLED"])[1] == "Deployment concurrency limit reached."

        with Served(config, environment) as served:
            [catch_up] = wait_for(
                f"a run that catches up: {served.said()}", lambda: prefect.runs_tagged("catch-up") or None
            )
            assert prefect.end_of(states["RUNNING"])[0] == "CRASHED"
            assert prefect.end_of(catch_up["id"])[0] == "COMPLETED", served.said()
            assert labeled(out) == {model_of(out): SECOND}
            assert "a run was cut short and is gone on with" in served.said()
            wait_for("the automation to tell of the crash", lambda: "Its process was killed" in "".join(told) or None)

            add_videos(corpus, videos, THIRD)
            before = model_of(out)
            promote_another(bundle)
            third = prefect.start_run(DEPLOYMENT)
            assert prefect.end_of(third)[0] == "COMPLETED", served.said()
            assert labeled(out) == {before: SECOND, model_of(out): THIRD}
            assert served.end(signal.SIGTERM) == 143
    assert analyst.wrong == []
    assert set(analyst.rows) == {0, FIRST, SECOND, SECOND + THIRD}
    assert runs_per_night(out) == [FIRST, SECOND - FIRST, THIRD]
    assert verify_output(str(out)) == ()


def add_videos(corpus: Path, videos: Path, count: int) -> None:
    """Have the first so many videos of the corpus stand there."""
    videos.mkdir(exist_ok=True)
    for video in sorted((corpus / "videos").glob("scene-*.mp4"))[:count]:
        if not (videos / video.name).exists():
            shutil.copy2(video, videos)


def promote_another(bundle: Path) -> None:
    """Put another model in place: the same networks, asked more often."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["default_policy"]["min_value"] /= 2
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def labeled(out: Path) -> Counter[str]:
    """Return how many videos have a row by each model."""
    sql = "select model_version, count(distinct video_id) from predictions group by 1"
    return Counter(dict(run_query(open_store(str(out)), sql).rows))


def model_of(out: Path) -> str:
    """Return the model of the latest labels."""
    [(model,)] = run_query(open_store(str(out)), "select distinct model_version from latest").rows
    return str(model)


def runs_per_night(out: Path) -> list[int]:
    rows = run_query(open_store(str(out)), "select videos_planned from runs order by started_at").rows
    return [planned for (planned,) in rows]


def shards(out: Path) -> int:
    return len(list(out.glob("runs/*/shards/*.parquet")))
