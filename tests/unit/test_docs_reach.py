"""Pages can be found: from the first one in few clicks, and each heading that a link names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CLICKS = 3
_LINK = re.compile(r"\]\(([^)\s]+\.md)(?:#[^)]*)?\)")


class _AnyTag(yaml.SafeLoader):
    """mkdocs.yml may have tags of its plugins, which say nothing about pages."""


_AnyTag.add_multi_constructor("", lambda loader, suffix, node: None)


def _listed() -> list[str]:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), _AnyTag)["nav"]

    def pages(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        values = part if isinstance(part, list) else part.values()
        return [page for value in values for page in pages(value)]

    return pages(nav)


def _linked(page: Path) -> set[Path]:
    return {(page.parent / target).resolve() for target in _LINK.findall(page.read_text())}


def test_every_page_is_within_three_clicks_of_the_first() -> None:
    """By links in texts alone, as one reads them on a code host or in an offline copy."""
    reached = frontier = {DOCS / "index.md"}
    for _ in range(CLICKS):
        frontier = {page for one in frontier for page in _linked(one) if page.exists()} - reached
        reached |= frontier
    assert sorted(str(page.relative_to(DOCS)) for page in set(PAGES) - reached) == []


def test_the_navigation_lists_every_page_once() -> None:
    """A page that is not in the navigation is found by nobody who looks there."""
    listed = _listed()
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(page.relative_to(DOCS)) for page in PAGES}
