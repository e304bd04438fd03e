"""What is done to each video of a run, and the fingerprint that names it."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass

from cdmodel.bundle import BundleManifest, model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeDevice
from cdmodel.errors import ConfigError
from cdmodel.escalation import asks_once, needs_student
from cdmodel.policies import Certified, EscalationPolicy
from cdmodel.policy_choice import resolve_policy
from cdmodel.sampling import ClipSampling
from storage.bundles import local_bundle, pin_bundle
from storage.prediction_schema import SCHEMA_VERSION
from tasks.run_request import RunRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The same for every video of a run."""

    fingerprint: str
    bundle: str | None
    """Folder or URL, an alias being resolved; None is the bundle that ships with the project."""
    model_version: str
    sampling: ClipSampling
    cascade: CascadeSettings


def resolve_work(request: RunRequest) -> Work:
    """Complete what the request says by what its bundle says.

    Raises:
        BundleError: the bundle is unknown or damaged.
        RegistryError: the bundle's registry is none, or knows no such alias or version.
        ConfigError: the bundle cannot answer the request, or a certificate is asked for under other circumstances than
            it was measured in.
    """
    bundle = pin_bundle(request.bundle)
    manifest = read_manifest(local_bundle(bundle))
    sampling = request.sampling or manifest.sampling
    cascade = _choose_cascade(request, manifest)
    if request.budget is not None and request.budget.is_limited:
        _refuse_unrankable(cascade.policy)
    return Work(
        fingerprint=work_fingerprint(manifest, sampling, cascade, request.decode_device),
        bundle=bundle,
        model_version=model_version(manifest),
        sampling=sampling,
        cascade=cascade,
    )


def _refuse_unrankable(policy: EscalationPolicy) -> None:
    """Raise ConfigError for a policy whose clips cannot be ranked across the run before the teacher is asked."""
    if not (needs_student(policy) and asks_once(policy)):
        raise ConfigError(
            "budget",
            f"needs to know from the student what each clip is worth before the teacher is asked; escalation.kind = "
            f"{policy.kind} decides otherwise: choose another, such as video_rank",
        )


def work_fingerprint(
    manifest: BundleManifest, sampling: ClipSampling, cascade: CascadeSettings, decode_device: DecodeDevice = "cpu"
) -> str:
    """Return the identity of the work done per video: bundle, sampling, policy, aggregation and schema.

    And that a GPU may decode, where it may: its pixels are a little different, so that labels may be.
    """
    content = {
        "model_version": model_version(manifest),
        "sampling": asdict(sampling),
        "policy": asdict(cascade.policy),
        "aggregation": asdict(cascade.aggregation),
        "schema_version": SCHEMA_VERSION,
    }
    if decode_device != "cpu":
        content["decode_device"] = decode_device
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _choose_cascade(request: RunRequest, manifest: BundleManifest) -> CascadeSettings:
    """Take what the request says, and the bundle's defaults for the rest."""
    aggregation = request.aggregation or manifest.default_aggregation
    if request.policy is None:
        return CascadeSettings(policy=manifest.default_policy, aggregation=aggregation)
    if isinstance(request.policy, Certified) and (
        aggregation != manifest.default_aggregation or (request.sampling or manifest.sampling) != manifest.sampling
    ):
        raise ConfigError("escalation", "a certificate holds for the bundle's own sampling and aggregation; leave them")
    if isinstance(request.policy, Certified) and request.decode_device != "cpu":
        raise ConfigError(
            "escalation", "a certificate holds for videos decoded on the CPU; leave decode.device at that"
        )
    resolved = resolve_policy(request.policy, manifest)
    if resolved.remark:
        logger.warning("%s", resolved.remark)
    return CascadeSettings(policy=resolved.policy, aggregation=aggregation)
