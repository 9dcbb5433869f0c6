"""The project's Markdown pages, for the tests of the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from docs.generate import slug
from tests.support.rig_command import PROJECT

SHELL = {"console", "sh", "bash", "shell"}
"""Languages of code blocks that hold commands."""


@dataclass(frozen=True)
class Place:
    """Text on a line of a page."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    """A code block: the words after its fence, and its text."""

    page: Path
    line: int
    info: tuple[str, ...]
    text: str


def pages() -> list[Path]:
    """Return every Markdown page of the project."""
    hidden = {path.name for path in PROJECT.iterdir() if path.name.startswith(".")}
    folders = (path for path in PROJECT.iterdir() if path.is_dir() and path.name not in hidden)
    found = [*PROJECT.glob("*.md"), *(page for each in folders for page in each.rglob("*.md"))]
    return sorted(page for page in found if "build" not in page.relative_to(PROJECT).parts)


@cache
def _tokens(page: Path) -> tuple[Token, ...]:
    parser = MarkdownIt("commonmark").enable("table")
    return tuple(parser.parse(page.read_text(encoding="utf-8")))


def _inline(page: Path) -> Iterator[tuple[int, Token]]:
    """Yield each inline token and the line of its block."""
    line = 0
    for token in _tokens(page):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            for child in token.children or ():
                yield line, child


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    found: dict[str, int] = {}
    names = set()
    tokens = _tokens(page)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            name = slug(text)
            count = found.get(name, 0)
            found[name] = count + 1
            names.add(f"{name}-{count}" if count else name)
    return frozenset(names)


def links(page: Path) -> list[Place]:
    """Return the targets of the page's links and images."""
    return [
        Place(page, line, str(token.attrs.get("href") or token.attrs.get("src")))
        for line, token in _inline(page)
        if token.type in ("link_open", "image")
    ]


def code_spans(page: Path) -> list[Place]:
    """Return the code spans in the page's text."""
    return [
        Place(page, line, token.content)
        for line, token in _inline(page)
        if token.type == "code_inline"
    ]


def blocks(page: Path) -> list[Block]:
    """Return the page's code blocks, indented ones too."""
    return [
        Block(page, (token.map or [0])[0] + 1, tuple(token.info.split()), token.content)
        for token in _tokens(page)
        if token.type in ("fence", "code_block")
    ]


def commands(page: Path) -> list[Place]:
    """Return the shell commands in the page's code blocks.

    In a block `console` a command begins with "$ "; in one of another shell language each line
    is a command. A backslash at the end of a line goes on in the next.
    """
    found = []
    for block in blocks(page):
        if not block.info or block.info[0] not in SHELL:
            continue
        session = block.info[0] == "console"
        waiting = ""
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            if session and not waiting and not line.startswith("$ "):
                continue
            waiting += line.removeprefix("$ ") if not waiting else line.strip()
            if waiting.endswith("\\"):
                waiting = waiting.removesuffix("\\").rstrip() + " "
                continue
            if waiting.strip() and not waiting.lstrip().startswith("#"):
                found.append(Place(page, number, waiting.strip()))
            waiting = ""
    return found


def words(command: str) -> list[list[str]]:
    """Return the words of each simple command in a shell line.

    Comments and redirections are left out.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if re.fullmatch(r"[;&|]+", word):
            found.append([])
        elif re.fullmatch(r"[<>&]+", word):
            skip = True
        elif skip:
            skip = False
        else:
            found[-1].append(word)
    return [
        each[next((i for i, word in enumerate(each) if "=" not in word), len(each)) :]
        for each in found
        if each
    ]
