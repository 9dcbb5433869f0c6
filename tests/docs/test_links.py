"""No page links to a file or a heading that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support import markdown
from tests.support.rig_command import PROJECT

PAGES = [pytest.param(page, id=str(page.relative_to(PROJECT))) for page in markdown.pages()]


def broken(page: Path) -> Iterator[str]:
    for link in markdown.links(page):
        parts = urlsplit(link.text)
        if parts.scheme in ("http", "https", "mailto"):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or not target.is_relative_to(PROJECT):
            yield f"{link} (no such file)"
        elif target.suffix == ".md" and parts.fragment not in {"", *markdown.anchors(target)}:
            yield f"{link} (no such heading)"


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert not list(broken(page))


def test_the_readme_leads_to_every_page_of_docs() -> None:
    """By links alone, through as many pages as it takes."""
    reached: set[Path] = set()
    waiting = [PROJECT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.exists():
            continue
        reached.add(page)
        for link in markdown.links(page):
            parts = urlsplit(link.text)
            if not parts.scheme and parts.path.endswith(".md"):
                waiting.append((page.parent / unquote(parts.path)).resolve())
    assert {page for page in markdown.pages() if page.is_relative_to(PROJECT / "docs")} <= reached


def test_the_readme_has_at_most_120_lines() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
