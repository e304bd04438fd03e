"""The published table, its source and its models as Prefect assets, so that the server shows what was made of what."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE

from storage.run_layout import PREDICTIONS
from storage.run_record import RunRecord

LONGEST_KEY = 512
DEMO_BUNDLE = "cdlabel://demo-bundle"
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


def materialize_predictions(out: str, record: RunRecord) -> None:
    """Tell Prefect that a run has added its rows to the table, from which source and by which models."""
    table = Asset(
        key=asset_key(f"{out.rstrip('/')}/{PREDICTIONS}"),
        properties=AssetProperties(name=f"{record.corpus} predictions", description="One row per video; see cdlabel"),
    )
    lineage: dict[str, Any] = json.loads(record.lineage_json or "{}")
    inputs = lineage.get("inputs", {})
    bundle = inputs.get("bundle")
    sources = [record.source, DEMO_BUNDLE if bundle is None else bundle]

    @materialize(
        table,
        by="cdlabel",
        name="materialize",
        asset_deps=[asset_key(source) for source in sources],
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def add_facts() -> None:
        add_asset_metadata(
            table,
            {
                "run_id": record.run_id,
                "model_version": record.model_version,
                "fingerprint": record.fingerprint,
                "rows": record.videos_planned,
                "plan_sha256": inputs.get("plan_sha256", ""),
                "code": lineage.get("code", {}).get("commit") or "",
            },
        )

    add_facts()


def asset_key(place: str) -> str:
    """Return a legal asset key for a folder or URL: a URI without characters that Prefect refuses, nor secrets.

    Longer ones than Prefect takes keep their end, which tells places apart.
    """
    uri = place if SCHEME.match(place) else f"file://{place if place.startswith('/') else '/' + place}"
    scheme, _, rest = uri.partition("://")
    place_of_server, slash, path = rest.partition("/")
    if ":" in place_of_server.partition("@")[0]:
        place_of_server = place_of_server.rpartition("@")[2]  # a password stood before it
    # Percent signs are refused too, so what would be escaped is written with an underscore.
    key = quote(f"{place_of_server}{slash}{path}", safe="/:@=,;+*!()$~").replace("%", "_")
    scheme = re.sub("[^a-z0-9]", "", scheme)
    room = LONGEST_KEY - len(f"{scheme}://")
    return f"{scheme}://{key if len(key) <= room else '...' + key[3 - room :]}"
