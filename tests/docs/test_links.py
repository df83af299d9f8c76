"""What the Markdown files of the repository name is there: links, anchors, images, paths, commands, options, tests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.main import get_command

from raffm_mpi.cli import app
from raffm_mpi.config import DataSettings

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("analysis", "benchmarks", "configs", "docs", "raffm_mpi", "slurm", "tests")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./*-]*")
# A changelog names what is gone, so only its links are checked.
CHANGELOG = "CHANGELOG.md"
# Options of mpirun, sbatch and the benchmarks that stand in code without their program.
FOREIGN = {
    "--account",
    "--bind-to",
    "--full",
    "--gpus-per-node",
    "--gpus-per-task",
    "--map-by",
    "--mca",
    "--oversubscribe",
}
OFFICIAL_FLAGS = "docs/coming-from-raffm.md"  # the page that translates the flags of the official scripts
SHELL_WORDS = {"|", "||", "&&", ";", "&", "#", ">"}
COMMANDS = {
    name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for name, command in get_command(app).commands.items()
}
ANY_OPTION = set.union(*COMMANDS.values()) | {"--help"}


@dataclass(frozen=True)
class Page:
    """One Markdown file, parsed."""

    name: str  # relative to the repository
    tokens: list[Token]

    def blocks(self) -> Iterator[list[Token]]:
        """The inline tokens of each paragraph, list item or heading, and of each row of a table."""
        row: list[Token] | None = None
        for token in self.tokens:
            if token.type == "tr_open":
                row = []
            elif token.type == "tr_close" and row is not None:
                yield row
                row = None
            elif token.type == "inline":
                children = token.children or []
                if row is None:
                    yield children
                else:
                    row += children

    def inline(self) -> Iterator[Token]:
        for block in self.blocks():
            yield from block

    def fences(self) -> Iterator[Token]:
        yield from (token for token in self.tokens if token.type in ("fence", "code_block"))

    def code(self) -> Iterator[str]:
        """Every piece of code: a span, or a line of a block, with what a backslash continues."""
        yield from (token.content for token in self.inline() if token.type == "code_inline")
        for fence in self.fences():
            yield from fence.content.replace("\\\n", " ").splitlines()

    def anchors(self) -> set[str]:
        """The anchors that GitHub gives the headings."""
        found: list[str] = []
        for opening, inline in zip(self.tokens, self.tokens[1:], strict=False):
            if opening.type == "heading_open":
                text = "".join(child.content for child in inline.children or [])
                slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
                earlier = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", anchor) is not None for anchor in found)
                found.append(f"{slug}-{earlier}" if earlier else slug)
        return set(found)


@cache
def tracked() -> frozenset[str]:
    """Every file under version control and every folder that holds one, relative to the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    files = [name for name in listed.split("\0") if name and (REPOSITORY / name).exists()]
    return frozenset(files) | {str(folder) for name in files for folder in Path(name).parents}


@cache
def page(name: str) -> Page:
    return parse(name, (REPOSITORY / name).read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Page:
    return Page(name, MarkdownIt("commonmark").enable("table").parse(text))


def wrong_links(page_: Page) -> list[str]:
    """The links and images that lead nowhere."""
    wrong = []
    for token in page_.inline():
        target = token.attrs.get("href") or token.attrs.get("src")
        if not isinstance(target, str) or re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (REPOSITORY / page_.name).parent / path if path else REPOSITORY / page_.name
        name = _relative(place)
        if name not in tracked() and name != page_.name:
            wrong.append(f"{target}: there is no file {name}")
        elif anchor:
            other = page_ if name == page_.name else page(name) if name.endswith(".md") else None
            if other is None or anchor not in other.anchors():
                wrong.append(f"{target}: {name} has no heading #{anchor}")
    return wrong


def _relative(place: Path) -> str:
    resolved = place.resolve()
    return str(resolved.relative_to(REPOSITORY)) if resolved.is_relative_to(REPOSITORY) else str(resolved)


def wrong_paths(page_: Page) -> list[str]:
    """The paths of this repository, in code, that are not there; one with * must match something."""
    wrong = []
    for piece in page_.code():
        for word in re.split(r"[\s'\"`(),=]+", piece):
            if match := PATH.match(word):
                name = match.group().rstrip("./")
                if not any(name == there or fnmatch(there, name) for there in tracked()):
                    wrong.append(name)
    return wrong


def wrong_commands(page_: Page) -> list[str]:
    """The commands of raffm-mpi that are not there, and the options that their command does not have.

    An option that stands alone belongs to the commands of its paragraph or row, or to any where that names none.
    """
    wrong = []
    for piece in page_.code():
        for name, options in _commands(piece):
            if name not in COMMANDS:
                wrong.append(f"raffm-mpi {name}")
            else:
                wrong += [f"{name} {option}" for option in options if option not in COMMANDS[name] | {"--help"}]
    if page_.name == OFFICIAL_FLAGS:
        return wrong
    for block in page_.blocks():
        spans = [token.content for token in block if token.type == "code_inline"]
        named = {name for span in spans for name, _ in _commands(span)} & COMMANDS.keys()
        allowed = set.union(*(COMMANDS[name] for name in named)) if named else ANY_OPTION
        for span in spans:
            if span.startswith("--"):
                option = re.split(r"[ =]", span)[0]
                if option not in allowed | FOREIGN:
                    wrong.append(f"{option}, of {', '.join(sorted(named)) or 'no command'}")
    return wrong


def _commands(piece: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of raffm-mpi in a line of shell, with its options."""
    words = piece.split()
    for index, word in enumerate(words[:-1]):
        if word.rpartition("/")[2] != "raffm-mpi" or words[index + 1] in {*SHELL_WORDS, "COMMAND"}:
            continue
        own = []
        for other in words[index + 2 :]:
            if other in SHELL_WORDS or other.startswith("#"):
                break
            if other.startswith("--"):
                own.append(other.partition("=")[0])
        if not words[index + 1].startswith("--"):
            yield words[index + 1], own


def wrong_targets(page_: Page) -> list[str]:
    """The targets of make that the Makefile does not have."""
    known = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = [match.group(1) for piece in page_.code() for match in re.finditer(r"(?:^|\s)make ([a-z-]+)", piece)]
    return [target for target in named if target not in known]


@cache
def defined_tests() -> frozenset[str]:
    files = (REPOSITORY / name for name in tracked() if name.startswith("tests/") and name.endswith(".py"))
    return frozenset(name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text("utf-8"), re.M))


def wrong_tests(page_: Page) -> list[str]:
    """The tests that are named in code and not defined; ``test_split`` is a setting."""
    named = [token.content for token in page_.inline() if token.type == "code_inline"]
    known = {*defined_tests(), *DataSettings.model_fields}
    return [name for name in named if re.fullmatch(r"test_\w+", name) and name not in known]


PAGES = sorted(name for name in tracked() if name.endswith(".md"))
CURRENT = [name for name in PAGES if name != CHANGELOG]


@pytest.mark.parametrize("name", PAGES)
def test_every_link_anchor_and_image_resolves(name):
    assert wrong_links(page(name)) == []


@pytest.mark.parametrize("name", CURRENT)
def test_every_path_in_code_exists(name):
    assert wrong_paths(page(name)) == []


@pytest.mark.parametrize("name", CURRENT)
def test_every_command_and_its_options_exist(name):
    assert wrong_commands(page(name)) == []


@pytest.mark.parametrize("name", CURRENT)
def test_every_target_of_make_and_every_test_that_is_named_exists(name):
    assert wrong_targets(page(name)) + wrong_tests(page(name)) == []


def test_the_tree_of_the_readme_is_the_tree_of_the_repository():
    fence = next(fence.content for fence in page("README.md").fences() if fence.content.startswith("raffm_mpi/\n"))
    inside = re.findall(r"(?:^  |\s{2})([a-z_]+(?:/|\.py))(?=\s)", fence, re.MULTILINE)
    beside = re.findall(r"^([a-z_]+/)", fence, re.MULTILINE)
    package = REPOSITORY / "raffm_mpi"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert sorted(inside) == sorted(folders | {path.name for path in package.glob("[a-z]*.py")})
    assert sorted(beside) == sorted(
        f"{name}/" for name in tracked() if "/" not in name and name[0].isalpha() and (REPOSITORY / name).is_dir()
    )


BROKEN = """
# A page
## A page
![lost](images/lost.png) [gone](lost.md) [here](#a-page-1) [nowhere](#b-page) [other](docs/log.md#no-such-heading)
[![fine](docs/images/demo_report.png)](docs/log.md#checking-it)

`raffm_mpi/lost.py`, `configs/demo.yaml`, `tests/*/test_l*.py`, `slurm/*.lost`, `make demo`, `make lost`, `test_lost`

```
mpirun --with-ft ulfm -n 3 raffm-mpi run configs/lost.yaml --lost --resume   # --not-an-option
.venv/bin/raffm-mpi lost && raffm-mpi \\
    tensorboard runs/demo --lost=1 --output x
```

| `raffm-mpi report RUN` | `--replay 2` |
|---|---|
| `raffm-mpi verify RUN` | `--replay 2`, `--gone`, `srun --mpi=pmix` |
"""


def test_each_kind_of_defect_is_found():
    broken = parse("README.md", BROKEN)
    assert [sentence.partition(":")[0] for sentence in wrong_links(broken)] == [
        "images/lost.png",
        "lost.md",
        "#b-page",
        "docs/log.md#no-such-heading",
    ]
    assert wrong_paths(broken) == ["raffm_mpi/lost.py", "slurm/*.lost", "configs/lost.yaml"]
    assert wrong_commands(broken) == [
        "run --lost",
        "raffm-mpi lost",
        "tensorboard --lost",
        "--replay, of report",
        "--gone, of verify",
    ]
    assert wrong_targets(broken) == ["lost"]
    assert wrong_tests(broken) == ["test_lost"]
