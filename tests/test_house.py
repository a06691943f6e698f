"""The shape of the code: which module may import which, and how long modules and functions are."""

import ast
import importlib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffusion", "mingpt")
SCRIPTS = ("example_diffusion.py", "example_gpt.py")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
# A module imports from its own layer and from those before it.
LAYERS = ("library", "images", "figures", "cli", "studies")


def layer(module: str) -> str:
    part = module.split(".")[1]
    return part if part in LAYERS else "library"


def names_of(module: str, tree: ast.Module):
    """The dotted names that a module imports, anywhere in it, its own package's only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def imports(module: str) -> set[str]:
    """The modules that a module imports; a package that loads lazily imports what it names."""
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for name in names_of(module, tree):
        while name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    if path.name == "__init__.py":
        words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        found |= {f"{module}.{word}" for word in words} & MODULES.keys()
    return found - {module}


GRAPH = {module: imports(module) for module in MODULES}


def a_circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules along one circle of imports, or [] where there is none."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if circle := search(other, [*path, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in graph if (circle := search(module, []))), [])


def test_no_module_imports_itself_through_others():
    assert a_circle(GRAPH) == []


def test_a_circle_would_be_found():
    circle = a_circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()})
    assert set(pairwise(circle)) == {("b", "c"), ("c", "b")}


def test_the_packages_do_not_know_each_other():
    for module, imported in GRAPH.items():
        own = module.split(".")[0]
        assert {name.split(".")[0] for name in imported} <= {own}, module


@pytest.mark.parametrize("module", [m for m in MODULES if m not in PACKAGES])
def test_imports_point_one_way(module):
    allowed = LAYERS[: LAYERS.index(layer(module)) + 1]
    for other in GRAPH[module] - set(PACKAGES):
        assert layer(other) in allowed, f"{module} imports {other}"


def test_truth_and_measures_know_no_model():
    models = {"denoiser", "training", "sampling", "likelihood", "steering", "images", "gaussian"}
    for module in ("diffusion.exact", "diffusion.metrics"):
        reached, left = set(), {module}
        while left:
            reached |= left
            left = set().union(*(GRAPH[name] for name in left)) - reached
        assert not {name.split(".")[1] for name in reached if "." in name} & models


@pytest.mark.parametrize("package", PACKAGES)
def test_a_study_is_one_file_of_its_name(package):
    """Beside them: the exercise, which is asked without --study, about points of one's own too."""
    folder = f"{package}.studies"
    studies = {
        study.name.replace("-", "_") for study in importlib.import_module(folder).STUDIES
    }
    files = {module.split(".")[2] for module in MODULES if module.startswith(f"{folder}.")}
    assert files - {"parts", "exercise", "owndata"} == studies


def test_scripts_alone_import_both_ends():
    """Nothing in a package imports a script, the tests or the report."""
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                top = node.module.split(".")[0]
                assert top not in {"tests", "report", *(s[:-3] for s in SCRIPTS)}, module


SOURCES = sorted(
    path
    for folder in (*PACKAGES, "tests", "report")
    for path in (ROOT / folder).rglob("*.py")
) + [ROOT / name for name in SCRIPTS]  # fmt: skip


def test_no_function_is_longer_than_a_screen():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_can_be_read_in_one_sitting(path):
    """Tests and benchmarks too; the scripts hold all of the exercise's questions."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < (450 if path.name in SCRIPTS else 401)
