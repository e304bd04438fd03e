"""Keys of assets: legal whatever a folder is called, and without secrets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.assets import Asset

from flows.lineage import asset_key


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("s3://bucket/out/predictions", "s3://bucket/out/predictions"),
        ("/data/my videos/out", "file:///data/my_20videos/out"),
        ("/data/*.mp4", "file:///data/*.mp4"),
        ("kinetics:/data/train.csv", "file:///kinetics:/data/train.csv"),
        ("s3://models@production", "s3://models@production"),
        ("https://me:secret@host/videos", "https://host/videos"),
        ("abfs+ssl://container/out", "abfsssl://container/out"),
    ],
)
def test_a_place_becomes_a_legal_key(place: str, key: str) -> None:
    assert Asset(key=asset_key(place)).key == key


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_folder_has_a_key_that_prefect_takes(name: str) -> None:
    Asset(key=asset_key(f"/{name}"))


def test_of_a_long_place_the_end_is_kept() -> None:
    assert asset_key(f"/{'deep/' * 200}out").endswith("/deep/out")
