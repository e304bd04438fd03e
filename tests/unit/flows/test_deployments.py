"""What is deployed, by ``cdlabel serve`` and by prefect.yaml, and what the server does for it by itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ParameterTypeError
from prefect.flows import Flow

from flows.automations import ENDED, HEARTBEAT_SECONDS, lost_heartbeat, on_alarms
from flows.deployments import label_nightly, retrain_nightly
from flows.nightly_config import RetrainScheduleSettings, ServedRetraining
from flows.retrain_config import RetrainConfig

ROOT = Path(__file__).parents[3]
PREFECT_YAML = (ROOT / "prefect.yaml").read_text()


def uncommented() -> str:
    """Return the file with its example for containers, too."""
    start = PREFECT_YAML.index("  # - name: nightly-kubernetes")
    example = "\n".join(line.replace("# ", "", 1) for line in PREFECT_YAML[start:].splitlines())
    return PREFECT_YAML[:start] + example


@pytest.mark.parametrize(
    ("text", "deployments"), [(PREFECT_YAML, 2), (uncommented(), 3)], ids=["as it is", "containers"]
)
def test_prefect_yaml_deploys_the_flow_with_parameters_that_it_takes(text: str, deployments: int) -> None:
    found = yaml.safe_load(text)["deployments"]
    assert len(found) == deployments
    for deployment in found:
        module, _, name = deployment["entrypoint"].rpartition(".")
        deployed = getattr(importlib.import_module(module), name)
        assert deployed is (retrain_nightly if deployment["name"] == "retrain" else label_nightly)
        assert "config" in deployed.validate_parameters(deployment["parameters"])
        assert CronSchedule(**deployment["schedules"][0]).cron
        limit = ConcurrencyLimitConfig(**deployment["concurrency_limit"])
        assert (limit.limit, limit.collision_strategy) == (1, "CANCEL_NEW")


@pytest.mark.parametrize(
    "config",
    [
        {"source": "/videos"},
        {"source": "/videos", "out": "/out", "wrkers": 2},
        {"source": "/videos", "out": "/out", "cluster": {"workers": 0}},
        "/videos",
    ],
)
def test_parameters_that_are_no_configuration_are_refused_before_any_work(config: object) -> None:
    with pytest.raises(ParameterTypeError):
        label_nightly.validate_parameters({"config": config})


def test_the_flow_says_how_each_wrong_end_is_to_be_mended() -> None:
    assert isinstance(label_nightly, Flow)
    hooks = (label_nightly.on_failure_hooks, label_nightly.on_crashed_hooks, label_nightly.on_cancellation_hooks)
    assert [[hook.__name__ for hook in some] for some in hooks] == [
        ["tell_failed"],
        ["tell_crashed"],
        ["tell_cancelled"],
    ]


def test_an_alarm_of_a_night_at_the_same_place_begins_a_cycle() -> None:
    served = ServedRetraining(
        config=RetrainConfig.model_validate({"out": "/out", "retrain": {"registry": "/models"}}),
        schedule=RetrainScheduleSettings(on_alarms=("audit_agreement", "student_drift")),
    )
    deployment = uuid4()
    automation = on_alarms("alarm", served, deployment)
    assert automation.trigger.expect == {"cdlabel.alarm.audit_agreement", "cdlabel.alarm.student_drift"}
    assert automation.trigger.match.matches({"prefect.resource.id": "cdlabel.run.r1", "cdlabel.out": "/out"})
    assert not automation.trigger.match.matches({"prefect.resource.id": "cdlabel.run.r1", "cdlabel.out": "/other"})
    [action] = automation.actions
    assert action.deployment_id == deployment
    parameters = retrain_nightly.validate_parameters({"config": served.config, **action.parameters})
    assert parameters["why"].by_alarm


def test_a_run_is_dead_once_it_has_missed_three_heartbeats_and_has_not_ended() -> None:
    trigger = lost_heartbeat("nightly", uuid4()).trigger
    assert trigger.posture == "Proactive"
    assert trigger.within.total_seconds() == 3 * HEARTBEAT_SECONDS
    assert trigger.after == {"prefect.flow-run.heartbeat"}
    assert trigger.expect == {"prefect.flow-run.heartbeat", *ENDED}
