"""Writes the generated parts of the documentation: the tables of columns and of settings, and the declarations in SQL.

Usage: python docs/generate.py [--check]. With --check it writes nothing and exits 1 if a page is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, UnionType
from typing import get_args

from cdmodel import (
    aggregation,
    alarms,
    audit_draw,
    budget,
    cost,
    decode_limits,
    example_settings,
    failure_policy,
    gate_settings,
    policies,
    sampling,
    teacher_source,
    train_settings,
)
from cdmodel.aggregation import Aggregation
from cdmodel.policies import PolicyChoice
from flows import config, dispatch, nightly_config
from flows.config import LabelRunConfig
from storage import corpus
from storage.prediction_schema import describe_columns
from storage.table_ddl import describe_ddl
from tasks import arm_settings, compose_settings, evaluation_settings, retrain_request, run_request, sharding

DOCS = Path(__file__).parent


def _choices(table: str, module: ModuleType, union: UnionType) -> list[tuple[str, ModuleType, str]]:
    """Return one group for each kind that a table of settings can be of."""
    return [(f'[{table}] kind = "{_kind(choice)}"', module, choice.__name__) for choice in get_args(union)]


def _kind(choice: type) -> str:
    # Not the class's attribute: with slots that is a descriptor.
    return next(str(field.default) for field in fields(choice) if field.name == "kind")


GROUPS: tuple[tuple[str, ModuleType, str], ...] = (
    ("[corpus]", corpus, "CorpusRules"),
    ("[models]", config, "ModelSettings"),
    ("[sampling]", sampling, "ClipSampling"),
    *_choices("escalation", policies, PolicyChoice),
    *_choices("aggregation", aggregation, Aggregation),
    ("[decode]", decode_limits, "DecodeLimits"),
    ("[sharding]", sharding, "ShardingSettings"),
    ("[failures]", failure_policy, "FailurePolicy"),
    ("[retry]", run_request, "RetrySettings"),
    ("[cluster]", dispatch, "ClusterSettings"),
    ("[budget]", budget, "BudgetSettings"),
    ("[audit]", audit_draw, "AuditSettings"),
    ("[alarms]", alarms, "AlarmSettings"),
    ("[prices]", cost, "PriceTable"),
    ("`cdlabel serve`: [schedule]", nightly_config, "ScheduleSettings"),
    ("`cdlabel serve`: [retrain_schedule]", nightly_config, "RetrainScheduleSettings"),
    ("`cdlabel train`: top level", train_settings, "TrainSettings"),
    ("`cdlabel train`: [teacher]", teacher_source, "TeacherSettings"),
    ("`cdlabel train`: [student]", train_settings, "StudentSettings"),
    ("`cdlabel train`: [confidence]", train_settings, "ConfidenceSettings"),
    ("`cdlabel retrain`: [retrain]", retrain_request, "RetrainSettings"),
    ("`cdlabel retrain`: [retrain.collect]", example_settings, "CollectSettings"),
    ("`cdlabel retrain`: [retrain.gate]", gate_settings, "GateSettings"),
    ("`cdlabel evaluate`: its whole file", evaluation_settings, "EvaluateSettings"),
    ("`cdlabel ablate`: its whole file", arm_settings, "ArmSettings"),
    ("`cdlabel compose`: its whole file", compose_settings, "ComposeSettings"),
)


def main() -> int:
    """Bring the pages up to date, or tell whether they are."""
    pages = {
        "output-format.md": describe_columns(),
        "configuration.md": describe_settings(),
        "sql.md": describe_ddl(),
    }
    stale = [name for name, table in pages.items() if not update(DOCS / name, table, write="--check" not in sys.argv)]
    for name in stale:
        print(f"docs/{name} is out of date: run make docs")  # noqa: T201
    return 1 if stale else 0


def update(page: Path, table: str, *, write: bool) -> bool:
    """Put the table between the page's markers; False if it differed and was not written."""
    text = page.read_text(encoding="utf-8")
    wanted = re.sub(
        r"(<!-- generated -->).*?(<!-- end -->)", lambda m: f"{m[1]}\n\n{table}\n\n{m[2]}", text, flags=re.DOTALL
    )
    if write:
        page.write_text(wanted, encoding="utf-8")
        return True
    return wanted == text


def describe_settings() -> str:
    """Return every setting with its default and meaning, grouped as in a file."""
    lines = ["### Top level", "", "| setting | default | meaning |", "|---|---|---|"]
    for name, field in LabelRunConfig.model_fields.items():
        if field.description:
            default = "required" if field.is_required() else f"`{field.default!r}`"
            lines.append(f"| `{name}` | {default} | {field.description} |")
    for title, module, class_name in GROUPS:
        group = getattr(module, class_name)
        assert is_dataclass(group)
        lines += ["", f"### {title}", "", inspect.cleandoc(group.__doc__ or "").split("\n\n")[0].replace("\n", " "), ""]
        rows = _rows(group)
        lines += ["| setting | default | meaning |", "|---|---|---|", *rows] if rows else []
    return "\n".join(lines)


def _rows(group: type) -> list[str]:
    meanings = _field_docs(group)
    rows = []
    for field in fields(group):
        if field.name != "kind":
            rows.append(f"| `{field.name}` | {_default(field)} | {meanings.get(field.name, '')} |")
    return rows


def _default(field: Field[object]) -> str:
    if field.default_factory is not MISSING:
        return f"`{field.default_factory()!r}`"
    if field.default is MISSING:
        return "required"
    return "see below" if is_dataclass(field.default) and hasattr(field.default, "steps") else f"`{field.default!r}`"


def _field_docs(group: type) -> dict[str, str]:
    """Return the string under each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(group)))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
    docs = {}
    for node, below in pairwise(body):
        match node, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs


if __name__ == "__main__":
    sys.exit(main())
