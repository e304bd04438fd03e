"""Brings a model bundle to this machine: a folder stays where it is, a URL is fetched once and kept by content."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
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
from storage.uri import is_local


def local_bundle(uri: str | None) -> Path:
    """Return the local folder of a bundle; None is the one that ships with the project. Checks nothing of its content.

    Raises:
        BundleError: it cannot be fetched, or names a registry, which this version does not know.
    """
    if uri is None:
        return DEMO_BUNDLE
    if "@" in uri.rpartition("/")[2] and not Path(uri).exists():
        raise BundleError(uri, "REGISTRY@alias is not known to this version; name the bundle's folder or URL")
    try:
        root = absolute_uri(uri)
        return Path(root) if is_local(root) else _fetch(open_store(root))
    except (StorageError, UsageError) as error:
        raise BundleError(uri, f"the bundle cannot be fetched: {error.reason}") from error


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
