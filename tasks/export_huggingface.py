"""Labels as a folder that Hugging Face's ``datasets`` loads: ``load_dataset(FOLDER)``, types and class names included.

The folder is that of a plain Parquet data set with a card (https://huggingface.co/docs/datasets/repository_structure and
https://huggingface.co/docs/hub/datasets-cards): ``data/train-*.parquet`` and a ``README.md`` whose YAML head tells the features.
Videos are named, not copied: the column ``uri`` becomes a column of videos by ``cast_column("uri", Video())``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.prediction_schema import LABEL_NAMES, PREDICTION_SCHEMA
from tasks.export_table import LABEL_COLUMNS, copy_rows

if TYPE_CHECKING:
    import duckdb

ROWS_PER_FILE = 500_000
"""A few hundred MB with clips, which is what the hub asks for."""
_DTYPES = {"float": "float32", "double": "float64", "date32[day]": "date32"}
"""Arrow's names that the cards' differ from."""


def write_huggingface(connection: duckdb.DuckDBPyConnection, folder: Path) -> int:
    """Write the view ``exported``, ascending by ``video_id``, and its card; return the rows.

    ``label`` is a class of the card's names, which are those of the exported rows, ascending; ``label_name`` is its text.
    """
    connection.execute(
        "create temp table classes as select label, row_number() over (order by label) - 1 as class "
        "from (select distinct label from exported)"
    )
    names = [name for (name,) in connection.execute("select label from classes order by class").fetchall()]
    # Sorted once, with the place of every row: the files are then cut without sorting again.
    connection.execute(
        f"create temp table sorted_labels as select {_columns()} from exported join classes using (label) order by video_id"
    )
    (rows,) = connection.execute("select count(*) from sorted_labels").fetchone() or (0,)
    (folder / "data").mkdir()
    files = max(1, -(-rows // ROWS_PER_FILE))
    for number in range(files):
        first = number * ROWS_PER_FILE
        copy_rows(
            connection,
            f"select * from sorted_labels where rowid >= {first} and rowid < {first + ROWS_PER_FILE} order by rowid",
            folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet",
            "format parquet, compression zstd",
        )
    (folder / "README.md").write_text(_card(names, rows), encoding="utf-8")
    return int(rows)


def _columns() -> str:
    """Return the expressions of the columns: those of every format, the class for the label, and the clips."""
    names = [name for name in LABEL_COLUMNS if name != "label"]
    return ", ".join([names[0], names[1], "class as label", "exported.label as label_name", *names[2:], "clips"])


def _card(names: list[str], rows: int) -> str:
    head = ["---", "configs:", "- config_name: default", "  data_files:", "  - split: train"]
    head += ["    path: data/train-*.parquet", "dataset_info:", "  features:"]
    for name in LABEL_COLUMNS:
        if name == "label":
            head += ["  - name: label", "    dtype:", "      class_label:", "        names:"]
            head += [f"          '{number}': {_yaml(text)}" for number, text in enumerate(names)]
            head += ["  - name: label_name", "    dtype: string"]
        else:
            head += _feature(name)
    head += _feature("clips")
    return "\n".join([*head, "---", "", _BODY.format(rows=rows, classes=len(names))])


def _feature(name: str) -> list[str]:
    if name in LABEL_NAMES:
        return [f"  - name: {name}", "    dtype: string"]
    arrow = PREDICTION_SCHEMA.field(name).type
    lines = [f"  - name: {name}"]
    if str(arrow).startswith("list"):
        lines.append("    list:")
        for field in arrow.value_type:
            lines += [f"    - name: {field.name}", f"      dtype: {_dtype(field.type)}"]
        return lines
    return [*lines, f"    dtype: {_dtype(arrow)}"]


def _dtype(arrow: Any) -> str:
    return _DTYPES.get(str(arrow), str(arrow))


def _yaml(text: str) -> str:
    """Return text as a double-quoted YAML scalar: JSON's, with what YAML does not print escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(character if character.isprintable() else f"\\U{ord(character):08x}" for character in quoted)


_BODY = """# Labels by cdlabel

{rows} videos, {classes} classes. Made by a student and a teacher: `confidence` is the calibrated probability that the label is
right, `decided_by` says whose clips count, `clips` holds what was said of every clip.

```python
from datasets import Video, load_dataset

labels = load_dataset("FOLDER", split="train")
videos = labels.cast_column("uri", Video())  # decodes them, where they stand
```
"""
