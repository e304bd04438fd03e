"""The table of predictions as other engines declare it: statements made from the one declaration of its columns."""

from __future__ import annotations

import pyarrow as pa

from storage.prediction_schema import PARTITIONS, PREDICTION_SCHEMA, PUBLISHED_SCHEMA

LOCATION = "BUCKET/OUT/predictions/"
_HIVE_NAMES = {
    pa.bool_(): "boolean",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.date32(): "date",
    pa.timestamp("us", tz="UTC"): "timestamp",
}
_TRINO_NAMES = _HIVE_NAMES | {
    pa.int32(): "integer",
    pa.float32(): "real",
    pa.string(): "varchar",
    pa.timestamp("us", tz="UTC"): "timestamp(3)",
}
"""Trino's Hive connector takes the precision it is configured for, and no other; three digits are its default."""


def describe_ddl() -> str:
    """Return the statements of all three engines as Markdown, for ``docs/sql.md``."""
    statements = {"Spark": spark_ddl(), "Athena": athena_ddl(), "Trino": trino_ddl()}
    return "\n\n".join(f"{engine} table:\n\n```sql\n{ddl}\n```" for engine, ddl in statements.items())


def spark_ddl(location: str = f"s3a://{LOCATION}") -> str:
    """Return Spark's statements for a table whose files stand below ``location``."""
    columns = [f"{field.name} {_hive_type(field.type)}" for field in _partitions_last()]
    return (
        f"CREATE TABLE predictions (\n{_lines(columns)}\n)\nUSING PARQUET\nPARTITIONED BY ({', '.join(PARTITIONS)})\n"
        f"LOCATION '{location}';\n\nMSCK REPAIR TABLE predictions;"
    )


def athena_ddl(location: str = f"s3://{LOCATION}") -> str:
    """Return Athena's statements (Hive's too) for a table whose files stand below ``location``."""
    columns = [f"{field.name} {_hive_type(field.type)}" for field in PUBLISHED_SCHEMA]
    partitions = ", ".join(f"{name} {_hive_type(PREDICTION_SCHEMA.field(name).type)}" for name in PARTITIONS)
    return (
        f"CREATE EXTERNAL TABLE predictions (\n{_lines(columns)}\n)\nPARTITIONED BY ({partitions})\nSTORED AS PARQUET\n"
        f"LOCATION '{location}';\n\nMSCK REPAIR TABLE predictions;"
    )


def trino_ddl(location: str = f"s3://{LOCATION}") -> str:
    """Return the statements of Trino's Hive connector for a table whose files stand below ``location``."""
    columns = [f"{field.name} {_trino_type(field.type)}" for field in _partitions_last()]
    partitions = ", ".join(f"'{name}'" for name in PARTITIONS)
    return (
        f"CREATE TABLE hive.default.predictions (\n{_lines(columns)}\n)\nWITH (\n    external_location = '{location}',\n"
        f"    format = 'PARQUET',\n    partitioned_by = ARRAY[{partitions}]\n);\n\n"
        "CALL hive.system.sync_partition_metadata('default', 'predictions', 'ADD');"
    )


def _partitions_last() -> list[pa.Field]:
    return [*PUBLISHED_SCHEMA, *(PREDICTION_SCHEMA.field(name) for name in PARTITIONS)]


def _lines(columns: list[str]) -> str:
    return ",\n".join(f"    {column}" for column in columns)


def _hive_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"array<{_hive_type(type_.value_type)}>"
    if pa.types.is_struct(type_):
        return "struct<" + ", ".join(f"{field.name}: {_hive_type(field.type)}" for field in type_) + ">"
    return _HIVE_NAMES[type_]


def _trino_type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"array({_trino_type(type_.value_type)})"
    if pa.types.is_struct(type_):
        return "row(" + ", ".join(f"{field.name} {_trino_type(field.type)}" for field in type_) + ")"
    return _TRINO_NAMES[type_]
