"""Brings a model bundle to this machine: a folder stays where it is, a URL is fetched once and kept by content.

A bundle is named by its folder or URL, or by ``REGISTRY@NAME``, where NAME is an alias or a version in that registry. An
alias may mean another bundle a moment later: whatever needs one bundle throughout asks ``pin_bundle`` once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cdmodel.bundle import (
    BUNDLE_FILES,
    DEMO_BUNDLE,
    MANIFEST_NAME,
    STUDENT_WEIGHTS,
    TEACHER_FOLDER,
    TEACHER_WEIGHTS,
    check_teacher_file,
)
from cdmodel.errors import BundleError, StorageError, UsageError
from storage.filesystem import Store, absolute_uri, open_store
from storage.registry import open_registry
from storage.uri import is_local, local_path


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReference:
    """A bundle named by its registry: ``s3://models@production``."""

    registry: str
    """Path or URL, as it was written."""
    name: str
    """Alias or version."""


def as_reference(uri: str | None) -> BundleReference | None:
    """Return what ``REGISTRY@NAME`` says; None for the folder or URL of a bundle, a folder with an @ that exists included."""
    if uri is None or "@" not in uri.rpartition("/")[2]:
        return None
    if is_local(uri) and Path(local_path(uri)).expanduser().exists():
        return None
    registry, _, name = uri.rpartition("@")
    return BundleReference(registry=registry, name=name)


def absolute_bundle(uri: str) -> str:
    """Return the one name of a bundle, whatever the working directory; an alias stays one.

    Raises:
        UsageError: an empty name.
    """
    reference = as_reference(uri)
    return absolute_uri(uri) if reference is None else f"{absolute_uri(reference.registry)}@{reference.name}"


def pin_bundle(uri: str | None) -> str | None:
    """Return the folder or URL of the bundle that is meant now: it means the same ever after. None stays None.

    Raises:
        RegistryError: the registry is none, or knows no such alias or version.
        StorageError: the registry cannot be read.
    """
    reference = as_reference(uri)
    if reference is None:
        return uri
    registry = open_registry(reference.registry)
    return registry.bundle_uri(registry.resolve(reference.name))


def bundle_stands(uri: str | None) -> bool:
    """Tell whether a folder or URL holds a bundle, whatever its state; the one that ships with the project always does.

    Raises:
        StorageUnavailable: it cannot be told.
    """
    return uri is None or open_store(uri).exists(MANIFEST_NAME)


def local_bundle(uri: str | None) -> Path:
    """Return the local folder of a bundle; None is the one that ships with the project. Checks nothing of its content.

    Raises:
        BundleError: it cannot be fetched.
        RegistryError: its registry is none, or knows no such alias or version.
    """
    pinned = pin_bundle(uri)
    if pinned is None:
        return DEMO_BUNDLE
    try:
        root = absolute_uri(pinned)
        return Path(root) if is_local(root) else _fetch(open_store(root))
    except (StorageError, UsageError) as error:
        raise BundleError(pinned, f"the bundle cannot be fetched: {error.reason}") from error


def _fetch(store: Store) -> Path:
    manifest = store.read(MANIFEST_NAME)
    target = _cache() / hashlib.sha256(manifest).hexdigest()[:24]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        for name in _list_files(store):
            (unfinished / name).parent.mkdir(exist_ok=True)
            (unfinished / name).write_bytes(store.read(name))
        # Another process may have been faster; its folder has the same content.
        if not target.exists():
            unfinished.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _list_files(store: Store) -> tuple[str, ...]:
    """Return the names to fetch; those of a teacher's folder are checked, since they become names on this machine."""
    if store.exists(TEACHER_WEIGHTS):
        return BUNDLE_FILES
    folder = store.child(TEACHER_FOLDER)
    names = tuple(found.name for found in folder.list())
    for name in names:
        check_teacher_file(folder.root, name)
    return (MANIFEST_NAME, STUDENT_WEIGHTS, *(f"{TEACHER_FOLDER}/{name}" for name in names)) if names else BUNDLE_FILES


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cdlabel" / "bundles"
