"""The model registry: immutable bundles by content hash, and aliases that say which of them is in use.

    REGISTRY/
      registry.json                             schema version; its presence makes a registry
      bundles/<model_version>/bundle.json ...   a bundle; ``bundle.json`` is written last, its presence makes it visible
      aliases/<alias>/000001.json ...           one object per move: the last one holds, all of them are the history

Every object is created once and never changed. A move is decided by who creates the next number, so that of any number
of movers who saw the same state exactly one wins, on a disk and on every store that honours create-only writes.
"""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from cdmodel.bundle import (
    MANIFEST_NAME,
    STUDENT_WEIGHTS,
    BundleManifest,
    find_teacher,
    model_version,
    parse_manifest,
    read_manifest,
)
from cdmodel.errors import RegistryConflict, RegistryError, StorageUnavailable
from storage.alias_history import (
    AliasMove,
    MoveAction,
    is_alias,
    is_version,
    move_from_bytes,
    move_to_bytes,
    rollback_target,
)
from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.parquet import damaged
from storage.registry_place import (
    ALIASES,
    BUNDLES,
    alias_folder,
    bundle_folder,
    bundle_manifest_name,
    move_name,
    open_place,
    require_conditional_writes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredBundle:
    """A complete bundle of a registry."""

    model_version: str
    uri: str
    """Folder or URL, as every command takes it."""
    added_at: datetime | None
    """By the clock of the store; None where it does not tell."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry that exists. Made by ``open_registry``; safe to share between threads and processes."""

    store: Store

    @property
    def uri(self) -> str:
        """The registry's absolute path or URL."""
        return self.store.root

    def add(self, folder: Path) -> RegisteredBundle:
        """Copy a local bundle into the registry under its version, or find it there; an interrupted add is completed.

        Its files come first and ``bundle.json`` last, so that nobody ever sees half a bundle.

        Raises:
            BundleError: the folder is no bundle, or a damaged one; nothing was written.
            DamagedObject: something else stands where a file of the bundle belongs.
            StorageError: the registry cannot be written; adding again goes on.
        """
        version = model_version(read_manifest(folder))
        below = bundle_folder(version)
        files = {name: (folder / name).stat().st_size for name in _bundle_files(folder)}
        there = {found.name: found.size_bytes for found in self.store.list(below)}
        for name, size in files.items():
            target = f"{below}/{name}"
            if target not in there:
                self.store.create_from_file(target, folder / name)
            elif name != MANIFEST_NAME and there[target] != size:
                # Equal versions mean equal weights; only the manifest may be laid out otherwise.
                raise damaged(self.store, target, f"{there[target]} bytes instead of {size}")
        return self.bundle(version)

    def bundles(self) -> tuple[RegisteredBundle, ...]:
        """Return all complete bundles, oldest first.

        Raises:
            StorageUnavailable: the registry cannot be listed.
        """
        sizes: dict[str, int] = {}
        complete: dict[str, datetime | None] = {}
        for found in self.store.list(BUNDLES):
            _, version, name = found.name.split("/", 2)
            if is_version(version):
                sizes[version] = sizes.get(version, 0) + found.size_bytes
                if name == MANIFEST_NAME:
                    complete[version] = found.modified
        registered = [
            RegisteredBundle(
                model_version=version, uri=self._uri_of(version), added_at=added_at, size_bytes=sizes[version]
            )
            for version, added_at in complete.items()
        ]
        epoch = datetime.fromtimestamp(0, UTC)
        return tuple(sorted(registered, key=lambda bundle: (bundle.added_at or epoch, bundle.model_version)))

    def bundle(self, version: str) -> RegisteredBundle:
        """Return a complete bundle.

        Raises:
            RegistryError: there is none of that version; close ones are named.
        """
        known = self.bundles()
        for bundle in known:
            if bundle.model_version == version:
                return bundle
        raise RegistryError(
            f"{self.uri}@{version}",
            f"no bundle {version} in this registry{_close(version, (bundle.model_version for bundle in known))}",
        )

    def bundle_uri(self, version: str) -> str:
        """Return the folder or URL of a complete bundle, as every command takes it.

        Raises:
            RegistryError: there is none of that version.
        """
        self._require_bundle(version)
        return self._uri_of(version)

    def manifest(self, version: str) -> BundleManifest:
        """Return what a bundle says of itself; its weights are not looked at.

        Raises:
            RegistryError: there is none of that version.
            BundleError: it is of another schema version.
            DamagedObject: it is another bundle than its name promises.
        """
        self._require_bundle(version)
        name = bundle_manifest_name(version)
        found = parse_manifest(self._uri_of(version), self.store.read(name))
        if model_version(found) != version:
            raise damaged(self.store, name, f"it is the manifest of {model_version(found)}")
        return found

    def resolve(self, name: str) -> str:
        """Return the version that an alias means now; a version is returned if it is there.

        Raises:
            RegistryError: no such alias or version; close ones are named.
        """
        if is_version(name):
            self._require_bundle(name)
            return name
        move = self.current(name)
        if move is None:
            raise self._unknown_alias(name)
        return move.model_version

    def aliases(self) -> tuple[AliasMove, ...]:
        """Return the last move of every alias, ascending by name."""
        names = [name for name in self.store.children(ALIASES) if is_alias(name)]
        return tuple(move for move in map_ahead(self.current, names) if move is not None)

    def current(self, alias: str) -> AliasMove | None:
        """Return the last move of an alias, or None if it was never moved.

        Raises:
            DamagedObject: the move was changed after it was written.
        """
        check_alias(alias)
        numbers = self._numbers(alias)
        return self._read_move(alias, numbers[-1]) if numbers else None

    def history(self, alias: str) -> tuple[AliasMove, ...]:
        """Return every move of an alias, oldest first.

        Raises:
            DamagedObject: a move is missing, or was changed after it was written.
        """
        check_alias(alias)
        numbers = self._numbers(alias)
        for place, number in enumerate(numbers, start=1):
            if number != place:
                raise damaged(self.store, move_name(alias, place), "this move is missing, later ones are there")
        return tuple(map_ahead(lambda number: self._read_move(alias, number), numbers))

    def last_number(self, alias: str) -> int:
        """Return the number of the last move of an alias; 0 if it was never moved."""
        check_alias(alias)
        return max(self._numbers(alias), default=0)

    def rollback_version(self, history: Sequence[AliasMove]) -> str | None:
        """Return the version that a rollback would lead to, see ``rollback_target``; None where there is none."""
        return rollback_target(history, {bundle.model_version for bundle in self.bundles()})

    def move(
        self,
        alias: str,
        version: str,
        *,
        after: int,
        moved_by: str,
        reason: str = "",
        metrics: Mapping[str, JsonValue] | None = None,
        action: MoveAction = "promote",
    ) -> AliasMove:
        """Let an alias mean a bundle of this registry, if it has not moved since the caller looked.

        ``after`` is the number of the last move that the caller saw, 0 if there was none.

        Raises:
            RegistryConflict: the alias has moved since; nothing was changed.
            RegistryError: no such bundle, no name for an alias, or a store where nobody could tell who was first.
            CommitStateUnknown: the move may or may not stand; look at ``current``.
        """
        check_alias(alias)
        self._require_bundle(version)
        require_conditional_writes(self.store)
        move = AliasMove(
            alias=alias,
            number=after + 1,
            model_version=version,
            previous=self._version_after(alias, after),
            action=action,
            moved_at=datetime.now(UTC),
            moved_by=moved_by,
            reason=reason,
            metrics=dict(metrics or {}),
            move_id=uuid.uuid4().hex,
        )
        if not self.store.create(move_name(alias, move.number), move_to_bytes(move)):
            raise self._conflict(alias, after)
        return move

    def _version_after(self, alias: str, number: int) -> str | None:
        if number == 0:
            return None
        try:
            return self._read_move(alias, number).model_version
        except StorageUnavailable:
            if self.store.exists(move_name(alias, number)):
                raise
            raise RegistryConflict(
                f"{self.uri}@{alias}", f"there is no move {number} of this alias to follow"
            ) from None

    def _conflict(self, alias: str, after: int) -> RegistryConflict:
        return RegistryConflict(
            f"{self.uri}@{alias}",
            f"the alias has moved since (after move {after}); look at its history and decide again",
        )

    def _numbers(self, alias: str) -> tuple[int, ...]:
        stems = (name.removesuffix(".json") for name in self.store.children(alias_folder(alias)))
        return tuple(sorted(int(stem) for stem in stems if stem.isdecimal()))

    def _read_move(self, alias: str, number: int) -> AliasMove:
        name = move_name(alias, number)
        move = move_from_bytes(self.store.read(name))
        if move is None or (move.alias, move.number) != (alias, number):
            raise damaged(self.store, name, f"it is not move {number} of {alias}")
        return move

    def _require_bundle(self, version: str) -> None:
        if not is_version(version) or not self.store.exists(bundle_manifest_name(version)):
            self.bundle(version)

    def _unknown_alias(self, alias: str) -> RegistryError:
        known = [name for name in self.store.children(ALIASES) if is_alias(name)]
        return RegistryError(f"{self.uri}@{alias}", f"no alias {alias} in this registry{_close(alias, known)}")

    def _uri_of(self, version: str) -> str:
        return self.store.uri_of(bundle_folder(version))


def open_registry(uri: str, *, create: bool = False) -> Registry:
    """Return the registry at a path or URL; with ``create`` an empty or new place becomes one.

    Raises:
        RegistryError: the place is no registry, holds something else, or is of a schema that this version does not know.
        StorageError: the place cannot be read, or written.
    """
    return Registry(store=open_place(uri, create=create))


def check_alias(alias: str) -> None:
    """Refuse what cannot be the name of an alias.

    Raises:
        RegistryError: naming it.
    """
    if not is_alias(alias):
        raise RegistryError(
            repr(alias),
            "cannot be the name of an alias: it starts with a small letter, followed by small letters, digits, '.', '_' "
            "and '-', and is not the version of a bundle",
        )


def _bundle_files(folder: Path) -> tuple[str, ...]:
    """Return the names of a checked bundle's files, those that make it visible last."""
    teacher = find_teacher(folder)
    names = (
        [f"{teacher.name}/{path.name}" for path in sorted(teacher.iterdir())] if teacher.is_dir() else [teacher.name]
    )
    return (STUDENT_WEIGHTS, *names, MANIFEST_NAME)


def _close(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: those that were perhaps meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    return f"; there is {', '.join(close)}" if close else ", which is empty"
