"""Inside the package imports go downwards only, and one file alone knows mpi4py."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "raffm_mpi"

# Lowest first; a room may import from rooms below it and from itself.
LAYERS = [
    {"__init__", "errors", "files", "messages", "seeds", "versions"},
    {"config", "log"},
    {"elastic", "devices", "data", "exchange"},
    {"tasks"},
    {"learning"},
    {"aggregation", "recovery"},
    {"methods"},
    {"launch", "doctor"},
    {"federation"},
    {"api", "forecast"},
    {"cli"},
    {"__main__"},
]
# What a room may import of the package, beside its own layer's rule.
STANDALONE = {
    "seeds": set(),
    "config": {"errors"},
    "elastic": {"errors"},
    "log": {"__init__", "errors", "files"},
    "data": {"config", "errors", "files", "seeds"},
    "devices": {"config", "errors", "files", "seeds"},
    "exchange": {"errors", "messages"},
}


# What the analysis may import of the package beside itself: the log, and what everybody may use.
ANALYSIS_MAY_IMPORT = ("raffm_mpi.log", "raffm_mpi.errors", "raffm_mpi.files", "raffm_mpi.messages")


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or path.is_relative_to(REPOSITORY / "analysis"), f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    """The room of a module's full name or of a file."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).with_suffix("").name in ROOMS else "__init__"


ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_layer():
    assert set.union(*LAYERS) == ROOMS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path):
    own = room_of(path)
    level = next(number for number, rooms in enumerate(LAYERS) if own in rooms)
    for name in imports(path):
        if name.split(".")[0] != "raffm_mpi" or name.startswith("raffm_mpi.analysis"):
            continue
        other = room(name)
        if other == own:
            continue
        if own in STANDALONE:
            assert other in STANDALONE[own] | {"__init__"}, f"{own} imports {name}"
        allowed = set.union(*LAYERS[:level], {"__init__"})
        assert other in allowed, f"{own} imports {name}"


def test_one_file_alone_imports_mpi4py():
    users = [path for path in FILES if any(name.split(".")[0] == "mpi4py" for name in imports(path))]
    assert [str(path.relative_to(PACKAGE)) for path in users] == ["exchange/mpi.py"]


def test_the_command_line_alone_reaches_the_analysis():
    users = [path for path in FILES if any(name.startswith("raffm_mpi.analysis") for name in imports(path))]
    assert {room_of(path) for path in users} == {"cli"}


def test_the_analysis_reads_the_log_and_nothing_else_of_the_package():
    for path in (REPOSITORY / "analysis").rglob("*.py"):
        own = {name for name in imports(path) if name.startswith("raffm_mpi") and "analysis" not in name}
        assert all(name.startswith(ANALYSIS_MAY_IMPORT) for name in own), path
