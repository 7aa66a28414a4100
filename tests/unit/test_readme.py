"""What README, docs and examples say is what the code does."""

from __future__ import annotations

import dataclasses
import importlib
import re
import runpy
from pathlib import Path

import mcp.client.stdio  # noqa: F401 - its default is the stderr of whoever imports it: not one test's
import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PRINTS = re.compile(r"```\n+It prints:\n+```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _blocks(page: Path) -> list[tuple[int, str]]:
    """Each Python block with the number of its first line."""
    text = page.read_text()
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in _BLOCK.finditer(text)]


BLOCKS = [
    pytest.param(page, line, code, id=f"{_name(page)}:{line + 1}")
    for page in PAGES
    for line, code in _blocks(page)
]


def _run(page: Path, line: int, code: str) -> None:
    # The empty lines make a traceback name the line of the page.
    compiled = compile("\n" * line + code, str(page), "exec")
    exec(compiled, {"__name__": "__main__"})  # noqa: S102 - our own pages


@pytest.mark.parametrize(("page", "line", "code"), BLOCKS)
def test_every_python_block_of_readme_and_docs_runs(
    page: Path,
    line: int,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A reader who copies a block into a file can run it, in an empty directory.

    What the page says that it prints, and the figures that it draws for the page, are what comes of it.
    """
    monkeypatch.chdir(tmp_path)
    _run(page, line, code)
    promised = _PRINTS.match(page.read_text().partition(code)[2])
    if promised:
        assert capfd.readouterr().out == promised[1]
    for figure in re.findall(r"\w[\w-]*\.svg", code):
        _assert_same_figure((tmp_path / figure).read_text(), (page.parent / figure).read_text())
        assert f"]({figure})" in page.read_text()


def _assert_same_figure(drawn: str, committed: str) -> None:
    """The same but for a pixel: the last bits of a sum depend on the processor."""
    assert _NUMBER.sub("#", drawn) == _NUMBER.sub("#", committed)
    pairs = zip(_NUMBER.findall(drawn), _NUMBER.findall(committed), strict=True)
    assert all(abs(float(one) - float(other)) <= 1.0 for one, other in pairs)


def test_the_readme_example_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comments behind the prints of the README example are what is printed."""
    page = ROOT / "README.md"
    ((line, code),) = _blocks(page)
    promised = re.findall(r"^ *print\(.*\) +# (.+)$", code, re.MULTILINE)
    assert len(promised) == 3
    monkeypatch.chdir(tmp_path)
    _run(page, line, code)
    assert capsys.readouterr().out.splitlines() == promised


def test_the_readme_example_is_short() -> None:
    """The first example fits on a screen: about 20 lines."""
    ((_, code),) = _blocks(ROOT / "README.md")
    assert len([text for text in code.splitlines() if text.strip()]) <= 20


@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_every_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file in examples/ runs as a script, from any directory."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY"))],
    ids=_name,
)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    """A relative link in a page names a file that exists."""
    targets = [target for target, _ in _LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_every_guarantee_names_tests_that_exist() -> None:
    """The table of guarantees points at real test files, ten rows of them."""
    rows = re.findall(r"^\| \d+ \|.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        named = re.findall(r"tests/[\w/]+\.py", row)
        assert named, row
        assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_setting_is_documented() -> None:
    """docs/reference/configuration.md has a row for each setting, and for nothing else."""
    from nt_memory import CacheConfig, MemoryConfig

    page = (ROOT / "docs/reference/configuration.md").read_text()
    top, cache = page.split("## cache_config")
    for cls, part in ((MemoryConfig, top), (CacheConfig, cache)):
        documented = set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE))
        assert documented == {field.name for field in dataclasses.fields(cls)}


def test_every_command_and_option_is_documented() -> None:
    """docs/reference/cli.md names each command, and each option of each."""
    import typer

    from nt_memory.apps.cli.main import app

    page = (ROOT / "docs/reference/cli.md").read_text()
    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    bench = commands.pop("bench")
    commands |= {f"bench {name}": command for name, command in bench.commands.items()}
    assert len(commands) > len(bench.commands) > 0
    for name, command in commands.items():
        assert f"`nt-memory {name}" in page
        options = {text for p in command.params for text in p.opts if text.startswith("--")}
        undocumented = {o for o in options if not re.search(rf"`{o}\b", page)}
        assert undocumented <= {"--help"}, name


def test_make_help_and_contributing_name_every_target() -> None:
    """Each phony target of the Makefile is explained in `make help` and in CONTRIBUTING."""
    makefile = (ROOT / "Makefile").read_text()
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    for target in set(phony.group(1).split()) - {"help"}:
        assert f"'make {target} " in makefile
        assert f"`make {target}`" in contributing


def test_every_public_name_is_in_the_reference() -> None:
    """docs/reference/api.md has each name that `import nt_memory` offers, and where it really is."""
    import nt_memory

    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    places = re.findall(r"^::: ([\w.]+)\.(\w+)$", page, re.MULTILINE)
    for module, name in places:
        assert hasattr(importlib.import_module(module), name), name
    assert set(nt_memory.__all__) <= {name for _, name in places}


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody is led to is not read."""
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {
        p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")
    } == listed
