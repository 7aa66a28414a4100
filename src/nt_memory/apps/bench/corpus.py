"""Real language without a download: sentences of the documentation in installed Python packages."""

from __future__ import annotations

import ast
import random
import re
import site
import sysconfig
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MIN_CHARS, MAX_CHARS = 40, 300
MIN_WORDS = 7
MAX_FILE_BYTES = 2 << 20
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[A-Za-z][a-z'-]*[,;:]?$")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Not language: examples, tables, fields of reST, section headings.
_SKIPPED = (">>>", "...", ":", "|", "+-", "==", "--", "..", "[", "@")


def sentences(roots: Iterable[Path], seed: int, wanted: int) -> tuple[list[str], bool]:
    """Distinct sentences of the docstrings below `roots`, in an order drawn by `seed`.

    A sentence has 40 to 300 characters and at least 7 words, starts with a capital, ends with a stop,
    and is mostly words. Files that do not parse are passed over.

    Args:
        roots: Directories of Python files.
        seed: Of the order in which files are read, and of the result.
        wanted: Files are read until there are so many.

    Returns:
        The sentences, at most `wanted`, and whether these are all there are.
    Cost: 5 to 10 ms a file; a file has a handful of sentences.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    paths = sorted({path for root in roots for path in root.rglob("*.py")})
    draw.shuffle(paths)
    found: dict[str, None] = {}
    for path in paths:
        if len(found) > wanted:
            break
        for text in _docstrings(path):
            found.update(dict.fromkeys(_sentences(text)))
    chosen = list(found)
    is_all = len(chosen) <= wanted
    draw.shuffle(chosen)
    return chosen[:wanted], is_all


def installed() -> list[Path]:
    """Where this interpreter's own library and the installed packages lie."""
    roots = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *site.getsitepackages()]
    kept: list[Path] = []
    for root in map(Path, roots):
        if root.is_dir() and not any(root == other or other in root.parents for other in kept):
            kept.append(root)
    return kept


def _docstrings(path: Path) -> Iterator[str]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what others escape wrongly is not our news
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text:
                yield text


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in paragraph.splitlines()]
        if any(line.startswith(_SKIPPED) for line in lines):
            continue
        for sentence in _END.split(_SPACE.sub(" ", " ".join(lines))):
            if _is_language(sentence):
                yield sentence


def _is_language(sentence: str) -> bool:
    if not MIN_CHARS <= len(sentence) <= MAX_CHARS:
        return False
    if not sentence[0].isupper() or not sentence.endswith((".", "!", "?")):
        return False
    words = sentence[:-1].split()
    plain = sum(1 for word in words if _WORD.match(word))
    return len(words) >= MIN_WORDS and plain >= 0.8 * len(words)
