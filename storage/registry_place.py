"""The place that a model registry is: what stands where, who may use it, and what it must be able to do.

Knows nothing of bundles and moves but their names.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Final

from cdmodel.bundle import MANIFEST_NAME
from cdmodel.errors import RegistryError
from storage.filesystem import STAGING, Store, open_store, probe

REGISTRY_FILE = "registry.json"
BUNDLES = "bundles"
ALIASES = "aliases"
SCHEMA_VERSION: Final = 1
KIND: Final = "cdlabel model registry"
OURS = frozenset({REGISTRY_FILE, BUNDLES, ALIASES, STAGING})


def bundle_folder(model_version: str) -> str:
    """Return where the files of a bundle stand."""
    return f"{BUNDLES}/{model_version}"


def bundle_manifest_name(model_version: str) -> str:
    """Return the object whose presence makes a bundle visible."""
    return f"{bundle_folder(model_version)}/{MANIFEST_NAME}"


def alias_folder(alias: str) -> str:
    """Return where the moves of an alias stand."""
    return f"{ALIASES}/{alias}"


def move_name(alias: str, number: int) -> str:
    """Return the object that holds one move: names ascend with numbers."""
    return f"{alias_folder(alias)}/{number:06d}.json"


def open_place(uri: str, *, create: bool) -> Store:
    """Return the store of a registry; with ``create`` an empty or new place becomes one.

    Raises:
        RegistryError: the place is no registry, holds something else, or is of a schema that this version does not know.
        StorageError: the place cannot be read, or written.
    """
    store = open_store(uri)
    if store.staging is not None and Path(store.root).is_file():
        raise RegistryError(store.root, "is a file; a registry is a folder or a URL")
    if not store.exists(REGISTRY_FILE):
        if not create:
            raise RegistryError(
                store.root, f"is no model registry: no {REGISTRY_FILE} there; cdlabel models promote makes one"
            )
        _create_place(store)
    _check_schema(store)
    return store


@lru_cache(maxsize=64)
def require_conditional_writes(store: Store) -> None:
    """Refuse a store that lets a later write replace an earlier one: the loser of a race would never know.

    Raises:
        RegistryError: it does.
        StorageError: it cannot be written at all.
    """
    if not probe(store):
        raise RegistryError(
            store.root,
            "this store does not honour create-only writes (If-None-Match), so an alias cannot be moved safely; "
            "keep the registry on a disk or in a store that does",
        )


def _create_place(store: Store) -> None:
    foreign = sorted(set(store.children()) - OURS)
    if foreign:
        raise RegistryError(
            store.root, f"is no model registry and holds something else ({foreign[0]}); name an empty or a new folder"
        )
    content = json.dumps({"kind": KIND, "schema_version": SCHEMA_VERSION}, indent=2)
    store.create(REGISTRY_FILE, content.encode() + b"\n")


def _check_schema(store: Store) -> None:
    try:
        found = json.loads(store.read(REGISTRY_FILE))
        kind, version = found["kind"], found["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise RegistryError(store.root, f"is no model registry: {REGISTRY_FILE} does not say so") from error
    if kind != KIND:
        raise RegistryError(store.root, f"is no model registry: {REGISTRY_FILE} is of kind {kind!r}")
    if version != SCHEMA_VERSION:
        raise RegistryError(
            store.root,
            f"registry schema {version!r} is unknown to this version, which reads schema {SCHEMA_VERSION}; "
            "use the version of cdlabel that wrote it, or a newer one",
        )
