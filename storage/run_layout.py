"""Where everything of a run stands below OUT: pure names, no effects."""

from __future__ import annotations

from datetime import date

PREDICTIONS = "predictions"
RUNS_TABLE = "runs_table"
RUNS = "runs"
COMPACTED = "compacted"
RETRAIN_PREFIX = "retrain-"
"""Of the run ids of retraining cycles; no labeling run is called so."""


def plan_name(run_id: str) -> str:
    """Return the name of the frozen plan; its presence makes the run."""
    return f"{RUNS}/{run_id}/plan.parquet"


def decision_name(run_id: str) -> str:
    """Return the name of the object that says whether the plan counts; see ``storage.plan_decision``."""
    return f"{RUNS}/{run_id}/decision"


def config_name(run_id: str) -> str:
    """Return the name of the resolved configuration."""
    return f"{RUNS}/{run_id}/config.toml"


def success_name(run_id: str) -> str:
    """Return the name of the marker and manifest that is written last."""
    return f"{RUNS}/{run_id}/_SUCCESS.json"


def shards_folder(run_id: str) -> str:
    """Return the folder that holds the committed shards."""
    return f"{RUNS}/{run_id}/shards"


def shard_name(run_id: str, shard_id: str) -> str:
    """Return the name of a shard's object; its presence is the commit."""
    return f"{shards_folder(run_id)}/{shard_id}.parquet"


def passes_folder(run_id: str) -> str:
    """Return the folder of the student's passes of a run with a budget."""
    return f"{RUNS}/{run_id}/passes"


def pass_name(run_id: str, shard_id: str) -> str:
    """Return the name of the student's passes over a shard; its presence is their commit."""
    return f"{passes_folder(run_id)}/{shard_id}.parquet"


def attempts_folder(run_id: str) -> str:
    """Return the folder of what attempts at shards wrote down while they ran."""
    return f"{RUNS}/{run_id}/attempts"


def predictions_name(run_id: str, run_date: date, model_version: str, number: int) -> str:
    """Return the name of a published file; partitions are written the way Hive does."""
    partition = f"run_date={run_date.isoformat()}/model_version={model_version}"
    return f"{PREDICTIONS}/{partition}/{run_id}-{number:05d}.parquet"


def model_version_of(name: str) -> str:
    """Return the model version that the name of a published or compacted file tells."""
    return name.rsplit("/model_version=", 1)[1].partition("/")[0]


def generation_folder(generation: str) -> str:
    """Return the folder of a generation: the published tables once more, in fewer files."""
    return f"{COMPACTED}/{generation}"


def manifest_name(generation: str) -> str:
    """Return the name of a generation's manifest, which is written last; its presence makes the generation."""
    return f"{generation_folder(generation)}/_SUCCESS.json"


def compacted_name(generation: str, partition: str, number: int) -> str:
    """Return the name of a generation's file of the table; ``partition`` is as in ``predictions/``."""
    return f"{generation_folder(generation)}/{PREDICTIONS}/{partition}/part-{number:05d}.parquet"


def compacted_runs_name(generation: str) -> str:
    """Return the name of the generation's table of runs."""
    return f"{generation_folder(generation)}/{RUNS_TABLE}.parquet"


def run_row_name(run_id: str) -> str:
    """Return the name of the file that holds the run's row."""
    return f"{RUNS_TABLE}/{run_id}.parquet"


def is_retrain_row(name: str) -> bool:
    """Tell whether the object holds the row of a retraining cycle, which has no folder below ``runs/``."""
    return name.startswith(f"{RUNS_TABLE}/{RETRAIN_PREFIX}")
