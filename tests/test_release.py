"""What a release states of itself: one version, and files that other tools read."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import yaml
from setuptools.config.pyprojecttoml import read_configuration

from sdw_core import __version__
from sdw_core.card import CITE

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read_yaml(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


def test_the_version_that_is_built_is_the_version_that_the_code_says() -> None:
    built = read_configuration(ROOT / "pyproject.toml")["project"]["version"]
    said = subprocess.run(
        [sys.executable, "-m", "study.cli", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (built, said) == (__version__, f"sdw-obd {__version__}\n")


def test_the_workflow_tests_every_python_that_is_claimed_and_the_lowest_libraries() -> None:
    matrix = read_yaml(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    first = PROJECT["requires-python"].removeprefix(">=")
    assert matrix["python"][0] == first
    assert {"python": first, "versions": "lowest"} in matrix["include"]


def test_every_dependency_has_a_lower_bound() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    unbounded = [each for group in groups for each in group if ">=" not in each]
    assert unbounded == []


def test_ruff_is_one_version_everywhere() -> None:
    (hook,) = read_yaml(".pre-commit-config.yaml")["repos"]
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ruff=={hook['rev'].removeprefix('v')}" in pinned


def test_the_citation_names_the_licence_and_both_papers() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["license"] == PROJECT["license"]
    papers = {reference["url"] for reference in citation["references"]}
    readme = (ROOT / "README.md").read_text()
    assert len(papers) == 2
    assert all(paper in readme for paper in papers)


def test_a_cards_citation_is_that_of_the_repository() -> None:
    citation = read_yaml("CITATION.cff")
    for cited in (citation, *citation["references"]):
        (entry,) = (each for each in CITE.split("@") if f"{{{cited['title']}}}" in each)
        for author in cited["authors"]:
            assert (author.get("family-names") or author["name"]) in entry


OURS = {"sdw_core", "search_spaces", "study"}
BROUGHT = {
    "huggingface_hub": "minari",
    "mujoco": "gymnasium",
    "pydantic_core": "pydantic",
    "sqlalchemy": "optuna",
}
"""What the packages import of what a dependency brings along -> that dependency."""


def test_whatever_the_packages_import_is_installed_with_them() -> None:
    """Not for the development of this project alone: tests would not notice."""
    groups = {"": PROJECT["dependencies"]} | PROJECT["optional-dependencies"]
    needed = [each for group, all_of in groups.items() if group != "dev" for each in all_of]
    stated = {re.split(r"[\[<>=]", each)[0].lower() for each in needed}
    made_of = packages_distributions()
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            for name in imported(path) - sys.stdlib_module_names - OURS:
                brought = BROUGHT.get(name)
                names = {brought} if brought else {each.lower() for each in made_of[name]}
                assert names & stated, f"{path} imports {name}, which is no dependency"


def imported(path: Path) -> set[str]:
    """First names of the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
