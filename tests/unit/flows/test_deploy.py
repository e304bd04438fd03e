"""What deploy/ and docs/scale-out.md name exists: commands, options, settings, versions, and each other's names."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed  # noqa: F401 - declares its settings to Dask
import pytest
import typer
import yaml
from distributed.cli import dask_scheduler, dask_worker
from packaging.specifiers import SpecifierSet

from flows.cli import app
from flows.config import load_config
from flows.dispatch import SCHEDULER_SETTINGS

ROOT = Path(__file__).parents[3]
DEPLOY, PAGE = ROOT / "deploy", ROOT / "docs" / "scale-out.md"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
TEXTS = {path: path.read_text() for path in [PAGE, *FILES]}
SCRIPTS = [path for path in FILES if path.suffix in (".sh", ".sbatch")]
KUBERNETES = {path.stem: list(yaml.safe_load_all(path.read_text())) for path in DEPLOY.glob("kubernetes/*.yaml")}
DASK_COMMANDS = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}


def objects(kind: str) -> list[Any]:
    return [one for documents in KUBERNETES.values() for one in documents if one["kind"] == kind]


def containers() -> dict[str, Any]:
    """Return the one container of each pod, by what it is."""
    [cluster], [nightly] = objects("DaskCluster"), objects("CronJob")
    pods = {
        "scheduler": cluster["spec"]["scheduler"]["spec"],
        "worker": cluster["spec"]["worker"]["spec"],
        "client": nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    }
    return {name: {**pod, **pod["containers"][0]} for name, pod in pods.items()}


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield where a command of ours or Dask's stands, and its words."""
    for path, text in TEXTS.items():
        text = text.replace("\\\n", " ")
        if path == PAGE:
            text = "\n".join(re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
        if options := re.search(r"^options=\((.*)\)$", text, flags=re.MULTILINE):
            text = text.replace('"${options[@]}"', options[1])
        for line in text.splitlines():
            bare = re.sub(r"[\"']\$dask[\"']", "dask", line.strip().removeprefix("#   ").removeprefix("exec "))
            bare = re.sub(r"^(srun|CUDA_VISIBLE_DEVICES=\S+) ", "", bare).removesuffix("&")
            if re.match(r"(cdlabel [a-z]|dask (scheduler|worker|cuda) )", bare):
                # In a message or a quoted remote command, the closing quote stands alone.
                words = shlex.split(re.sub(r"\" </dev/null.*|\\n\"\)$|(?<=ADDRESS)\\n.*", "", bare), comments=True)
                yield f"{path.relative_to(ROOT)}: {' '.join(words)}", words
    for name, container in containers().items():
        yield f"kubernetes: {name}", container["args"]


LINES = dict(command_lines())


def test_all_kinds_of_files_are_looked_at() -> None:
    places = {where.partition(":")[0] for where in LINES}
    assert {"docs/scale-out.md", "deploy/ssh/cluster.sh", "deploy/slurm/label.sbatch", "kubernetes"} <= places
    assert len([words for words in LINES.values() if words[0] == "cdlabel"]) > 6
    assert len([words for words in LINES.values() if words[0] == "dask"]) > 6


@pytest.mark.parametrize("where", [where for where, words in LINES.items() if words[0] == "cdlabel"])
def test_the_command_line_takes_it(where: str) -> None:
    [_, name, *arguments] = LINES[where]
    group: Any = typer.main.get_command(app)
    context = group.commands[name].make_context(name, arguments)
    if name == "label":
        assignments = [one.replace("$SLURM_CPUS_PER_TASK", "8") for one in context.params["assignments"] or []]
        given = {"source": context.params["source"], "out": context.params["out"]}
        load_config(None, assignments, {**given, "cluster.scheduler": context.params["scheduler"]})


@pytest.mark.parametrize("where", [where for where, words in LINES.items() if words[0] == "dask"])
def test_dask_has_the_options(where: str) -> None:
    """Of ``dask cuda worker`` those that it shares with ``dask worker``, all that we use."""
    [_, *command] = LINES[where]
    if command[0] == "cuda":
        command = command[1:]
    known = {
        option
        for parameter in DASK_COMMANDS[command[0]].params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    assert {word for word in command if word.startswith("--")} <= known


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses(path: Path) -> None:
    shell = "sh" if path.read_text().startswith("#!/bin/sh") else "bash"
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    subprocess.run([shell, "-n", path], check=True)


def test_the_python_script_compiles_and_knows_its_options() -> None:
    path = DEPLOY / "slurm" / "cluster.py"
    code = path.read_text()
    compile(code, str(path), "exec")
    options = set(re.findall(r"add_argument\(\"(--[a-z-]+)\"", code))
    used = [line for text in TEXTS.values() for line in text.splitlines() if "python deploy/slurm/cluster.py" in line]
    assert used
    for line in used:
        assert {word for word in line.split() if word.startswith("--")} <= options


def test_every_file_that_is_named_is_there() -> None:
    named = {name for text in TEXTS.values() for name in re.findall(r"deploy/[\w./-]+\w", text)}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_page_tells_of_every_file() -> None:
    for path in FILES:
        if not path.name.endswith("ignore"):
            assert str(path.relative_to(ROOT)) in TEXTS[PAGE], path


def test_the_image_has_our_packages_our_python_and_pinned_versions() -> None:
    lines = TEXTS[DEPLOY / "Containerfile"]
    assert set(re.findall(r"^COPY (\w+) \1$", lines, flags=re.MULTILINE)) == set(
        PYPROJECT["tool"]["setuptools"]["packages"]
    )
    [python] = re.findall(r"^ARG PYTHON=(.*)$", lines, flags=re.MULTILINE)
    assert f"{python}.9" in SpecifierSet(PYPROJECT["project"]["requires-python"])
    installs = re.findall(r"pip install .*", lines)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)
    assert "torch" in CONSTRAINTS
    assert [line for line in lines.splitlines() if line.startswith("USER ")] == ["USER 10001"]


def test_images_and_extras_are_those_of_this_version() -> None:
    tags = {tag for text in TEXTS.values() for tag in re.findall(r"\bcdlabel:(\d[\w.]*)", text)}
    assert tags == {PYPROJECT["project"]["version"]}
    extras = {extra for text in TEXTS.values() for extra in re.findall(r"(?:\.|cdlabel)\[([a-z]+)\]", text)}
    assert extras == {"cuda"}
    assert extras <= set(PYPROJECT["project"]["optional-dependencies"])


def settings_of_kubernetes() -> dict[str, str]:
    [settings] = objects("ConfigMap")
    data: dict[str, str] = settings["data"]
    return data


def settings_of_the_scripts() -> dict[str, str]:
    return dict(line.split("=", 1) for line in shlex.split(TEXTS[DEPLOY / "dask.env"], comments=True))


def test_kubernetes_has_the_settings_of_the_scripts() -> None:
    assert settings_of_the_scripts().items() <= settings_of_kubernetes().items()


def test_workers_keep_memory_as_those_of_a_local_cluster_do() -> None:
    ours = {name.rpartition(".")[2]: str(value) for name, value in SCHEDULER_SETTINGS.items() if "MALLOC" in name}
    assert len(ours) == 2
    assert ours.items() <= settings_of_the_scripts().items()


def test_dask_knows_the_settings() -> None:
    named = set(re.findall(r"\bDASK_DISTRIBUTED__\w+", "\n".join(TEXTS.values())))
    assert {name for name in settings_of_kubernetes() if not name.startswith("MALLOC_")} <= named
    for name in named:
        place: Any = dask.config.config
        for part in name.removeprefix("DASK_").lower().split("__"):
            place = place[dask.config.canonical_name(part, place)]


def test_the_parts_on_kubernetes_know_each_other() -> None:
    [cluster], [autoscaler], [policy] = objects("DaskCluster"), objects("DaskAutoscaler"), objects("NetworkPolicy")
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    assert {one["metadata"].get("namespace", namespace) for file in KUBERNETES.values() for one in file} == {namespace}
    assert [one["metadata"]["name"] for one in objects("Namespace")] == [namespace]
    assert autoscaler["spec"]["cluster"] == name
    labels = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    assert labels == cluster["spec"]["scheduler"]["service"]["selector"] == policy["spec"]["podSelector"]["matchLabels"]
    # The operator finds the service's ports by these names.
    assert {port["name"] for port in cluster["spec"]["scheduler"]["service"]["ports"]} == {"tcp-comm", "http-dashboard"}
    address = f"tls://{name}-scheduler.{namespace}.svc.cluster.local:8786"
    parts = containers()
    assert parts["worker"]["env"] == [{"name": "DASK_SCHEDULER_ADDRESS", "value": address}]
    assert address in parts["client"]["args"]
    assert len({part["image"] for part in parts.values()}) == 1


@pytest.mark.parametrize("part", ["scheduler", "worker", "client"])
def test_a_pod_has_its_own_certificate_no_root_and_nothing_to_write_but_tmp(part: str) -> None:
    container = containers()[part]
    [tls] = [volume["secret"] for volume in container["volumes"] if volume["name"] == "tls"]
    paths = {f"/tls/{item['path']}" for item in tls["items"]}
    prefix = f"DASK_DISTRIBUTED__COMM__TLS__{part.upper()}__"
    wanted = [value for name, value in settings_of_kubernetes().items() if name.startswith(prefix)]
    assert paths == {"/tls/ca.pem", *wanted}
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {"tls": "/tls", "temp": "/tmp"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    for text in (TEXTS[DEPLOY / "kubernetes" / "cluster.yaml"], TEXTS[DEPLOY / "kubernetes" / "nightly.yaml"]):
        assert "runAsNonRoot: true" in text
    sources = {next(iter(one.values()))["name"] for one in container["envFrom"]}
    assert sources == ({"cdlabel-dask"} if part == "scheduler" else {"cdlabel-dask", "cdlabel-s3"})
    for secret in ("cdlabel-tls", "cdlabel-s3"):
        assert f"kubectl create secret generic {secret} -n cdlabel" in TEXTS[PAGE]
