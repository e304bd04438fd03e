"""Lets an alias of a model registry mean another bundle: forward to one that is named, or back to the one before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from cdmodel.bundle import read_manifest
from cdmodel.errors import RegistryConflict, RegistryError
from storage.alias_history import AliasMove, is_version
from storage.bundles import absolute_bundle, as_reference, local_bundle
from storage.filesystem import absolute_uri
from storage.registry import Registry, check_alias, open_registry

FIRST_PAUSE_SECONDS = 0.4
LONGEST_PAUSE_SECONDS = 2.0
"""Waited at most after a lost race; at first less, then twice as long after each."""
LOST_RACES = 1_000
"""After so many the alias is not being moved by people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """Who moves an alias, and why: what its history keeps."""

    moved_by: str
    reason: str = ""


def find_or_add(registry_uri: str, bundle: str) -> tuple[Registry, str]:
    """Return the registry and the version in it of a bundle: one that it has, or a folder or URL that is added now.

    The bundle is looked at first, so that a bad one leaves no registry behind.

    Raises:
        BundleError: ``bundle`` is none, or a damaged one.
        RegistryError: the place is no registry, or has no such version or alias.
        StorageError: the registry cannot be written.
    """
    reference = as_reference(bundle)
    if is_version(bundle):
        registry = open_registry(registry_uri)
        return registry, registry.resolve(bundle)
    if reference is not None and absolute_uri(reference.registry) == absolute_uri(registry_uri):
        registry = open_registry(registry_uri)
        return registry, registry.resolve(reference.name)
    folder = local_bundle(absolute_bundle(bundle))
    read_manifest(folder)
    registry = open_registry(registry_uri, create=True)
    return registry, registry.add(folder).model_version


def promote_bundle(
    registry_uri: str,
    bundle: str,
    alias: str,
    mover: Mover,
    *,
    pause: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
) -> AliasMove:
    """Let an alias mean a bundle, which is added if the registry does not have it, whatever it means now.

    Somebody else may move it at the same instant: then this move follows theirs, and the history has both. What was measured
    of the bundle when it was made goes into the history.

    Raises:
        BundleError, RegistryError, StorageError: as ``find_or_add``; also for a store where aliases cannot be moved.
        CommitStateUnknown: the move may or may not stand; look at the history.
    """
    check_alias(alias)
    registry, version = find_or_add(registry_uri, bundle)
    metrics = registry.manifest(version).metrics
    waits = rng or random.Random()
    for turn in range(LOST_RACES):
        try:
            return registry.move(
                alias,
                version,
                after=registry.last_number(alias),
                moved_by=mover.moved_by,
                reason=mover.reason,
                metrics=metrics,
            )
        except RegistryConflict:
            pause(waits.uniform(0.0, min(FIRST_PAUSE_SECONDS * 2.0 ** min(turn, 10), LONGEST_PAUSE_SECONDS)))
    raise RegistryConflict(
        f"{registry.uri}@{alias}", f"lost {LOST_RACES} races for the next move; who moves it all the time?"
    )


def roll_back(registry_uri: str, alias: str, mover: Mover) -> AliasMove:
    """Let an alias mean the version before the current one, see ``rollback_target``.

    Somebody else may move it at the same instant: then this is refused, since what is to be left is no longer there, and
    two people who roll back the same version must not go back twice.

    Raises:
        RegistryConflict: the alias has moved since; nothing was changed.
        RegistryError: there is nothing to go back to, or the place is no registry.
        StorageError: the registry cannot be read or written.
    """
    registry = open_registry(registry_uri)
    history = registry.history(alias)
    if not history:
        registry.resolve(alias)
    target = registry.rollback_version(history)
    if target is None:
        raise RegistryError(
            f"{registry.uri}@{alias}",
            f"there is nothing to go back to before {history[-1].model_version}; promote a version by name instead",
        )
    return registry.move(
        alias, target, after=len(history), moved_by=mover.moved_by, reason=mover.reason, action="rollback"
    )
