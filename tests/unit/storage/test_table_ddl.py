"""The page docs/sql.md and the declared columns agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from storage.prediction_schema import CLIP, COLUMNS, PARTITIONS, PUBLISHED_SCHEMA
from storage.table_ddl import athena_ddl, describe_ddl, spark_ddl, trino_ddl

PAGE = (Path(__file__).parents[3] / "docs" / "sql.md").read_text(encoding="utf-8")


def _columns(ddl: str) -> dict[str, str]:
    """The columns of a statement by name, in order: four blanks, a name, a type."""
    listed, _, _ = ddl.partition("\n)\n")
    return dict(re.findall(r"^ {4}(\w+) (.*?),?$", listed, re.MULTILINE))


def test_the_page_declares_the_table_as_generated():
    generated = PAGE.partition("<!-- generated -->")[2].partition("<!-- end -->")[0]
    assert generated.strip() == describe_ddl()


@pytest.mark.parametrize("ddl", [spark_ddl(), trino_ddl()], ids=["Spark", "Trino"])
def test_every_column_is_declared_and_partitions_come_last(ddl: str):
    assert list(_columns(ddl)) == [*PUBLISHED_SCHEMA.names, *PARTITIONS]
    assert len(_columns(ddl)) == len(COLUMNS)


def test_athena_declares_partitions_apart():
    assert list(_columns(athena_ddl())) == PUBLISHED_SCHEMA.names
    assert "PARTITIONED BY (run_date date, model_version string)" in athena_ddl()


@pytest.mark.parametrize(
    ("column", "hive", "trino"),
    [
        ("uri", "string", "varchar"),
        ("labeled_at", "timestamp", "timestamp(3)"),
        ("coverage", "float", "real"),
        ("label_id", "int", "integer"),
        ("escalated", "boolean", "boolean"),
        ("size_bytes", "bigint", "bigint"),
        ("cost_usd", "double", "double"),
        (
            "top_labels",
            "array<struct<label_id: int, label: string, probability: float>>",
            "array(row(label_id integer, label varchar, probability real))",
        ),
    ],
)
def test_types_are_named_as_each_engine_names_them(column: str, hive: str, trino: str):
    assert _columns(athena_ddl())[column] == _columns(spark_ddl())[column] == hive
    assert _columns(trino_ddl())[column] == trino


def test_queries_for_trino_name_the_fields_of_a_clip_in_their_order():
    named = re.findall(r"unnest\(clips\) as c \((.*?)\)", PAGE, re.DOTALL)
    assert [re.findall(r"\w+", fields) for fields in named] == [[field.name for field in CLIP]] * 2


def test_a_location_stands_where_it_is_given():
    for ddl in (spark_ddl("/here/"), athena_ddl("/here/"), trino_ddl("/here/")):
        assert "'/here/'" in ddl
