"""Declared dependencies are those that are used, and pinned ones those that are declared."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# packages whose import name is not their name
IMPORT_NAMES = {"scikit-learn": "sklearn", "scvi-tools": "scvi", "pyyaml": "yaml"}


def requirements(*groups: str) -> dict[str, Requirement]:
    lists = [PROJECT["project"]["dependencies"], *(PROJECT["dependency-groups"][group] for group in groups)]
    parsed = [Requirement(text) for texts in lists for text in texts if isinstance(text, str)]
    return {canonicalize_name(r.name): r for r in parsed}


def pins(python_version: str) -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line]
    valid = [r for r in parsed if r.marker is None or r.marker.evaluate({"python_version": python_version})]
    assert len({canonicalize_name(r.name) for r in valid}) == len(valid), "pinned twice"
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in valid}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"scgeneformer"}


def test_every_import_is_declared_and_every_declaration_is_used():
    used = set().union(*(imported(path) for path in (ROOT / "src").rglob("*.py")))
    declared = {IMPORT_NAMES.get(name, name) for name in requirements()}
    extras = PROJECT["project"]["optional-dependencies"].values()
    optional = {Requirement(text).name.replace("-", "_") for texts in extras for text in texts}
    assert used - declared <= optional
    assert declared <= used


@pytest.mark.parametrize("python_version", ["3.11", "3.12", "3.13"])
def test_pins_satisfy_the_declared_bounds(python_version: str):
    pinned = pins(python_version)
    for name, requirement in requirements("lint", "test", "doc").items():
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is pinned to {pinned[name]}"


def test_newer_pythons_get_newer_scverse_and_all_the_same_torch():
    old, new, newest = (pins(version) for version in ("3.11", "3.12", "3.13"))
    assert old["torch"] == new["torch"]
    assert new == newest
    for name in ("anndata", "mudata", "scanpy", "scvi-tools"):
        assert Version(old[name]) < Version(new[name])


def test_the_commands_of_the_readme_exist():
    targets = (ROOT / "Makefile").read_text()
    blocks = (ROOT / "README.md").read_text().split("```bash\n")[1:]
    commands = [block.split("```")[0].split("#")[0].strip() for block in blocks if block.startswith("make")]
    assert commands == ["make demo", "make test"]
    assert all(f"\n{command.split()[1]}: " in targets for command in commands)


def test_what_is_said_about_the_package_is_the_same_everywhere():
    project, urls = PROJECT["project"], PROJECT["project"]["urls"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["title"] == project["name"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == urls["Source"]
    assert citation["url"] == urls["Documentation"]
    references = (ROOT / "docs" / "references.bib").read_text()
    assert all(f"{{{article['doi']}}}" in references for article in citation["references"])
    entry = yaml.safe_load((ROOT / ".github" / "scverse" / "meta.yaml").read_text())
    assert entry["name"] == entry["install"]["pypi"] == project["name"]
    assert entry["project_home"] == urls["Source"]
    assert entry["documentation_home"] == urls["Documentation"]
    assert entry["license"] == project["license"]
    assert set(entry) == {  # what the registry asks for
        *("name", "description", "project_home", "documentation_home", "tutorials_home", "publications", "install"),
        *("primary_category", "tags", "license", "contact", "test_command", "category"),
    }


def test_the_changelog_has_the_version_and_the_date_of_the_citation():
    version = Version(PROJECT["project"]["version"])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    heading = "[Unreleased]" if version.is_devrelease else f"[{version}] - {citation['date-released']}"
    assert f"## {heading}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_are_pinned_and_only_one_job_may_publish():
    may_publish = []
    for path in (ROOT / ".github" / "workflows").glob("*.yaml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            steps = [step["uses"] for step in job["steps"] if "uses" in step]
            assert all(len(step.split("@")[1].split()[0]) == 40 for step in steps), f"{path.name}: {steps}"
            if "permissions" in job:
                may_publish.append((path.name, name, job["permissions"]))
    assert may_publish == [("release.yaml", "publish", {"id-token": "write"})]
