"""A lab file's text: YAML read with the line of each place in it, and mistakes told by line."""

from __future__ import annotations

from pathlib import Path

import yaml

from rig.lab.base import LabError, Location, spell


def parse(path: Path, text: str) -> tuple[object, dict[Location, int]]:
    """The document as plain Python values, and the line of each place in it."""
    lines: dict[Location, int] = {(): 1}
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError:
        raise LabError(
            f"{path}: this is not YAML text; it holds characters that YAML forbids."
        ) from None
    try:
        root = loader.get_single_node()
        if root is None:
            raise LabError(f"{path}: the file is empty; start from the lab.yaml of the project.")
        return _plain(path, loader, root, (), lines, frozenset()), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or "it does not parse"
        raise LabError(
            f"{path}:{line}: this is not YAML: {problem}; "
            "check the indentation, the colons and the quotes of this line and the one before."
        ) from None
    finally:
        loader.dispose()


def _plain(
    path: Path,
    loader: yaml.SafeLoader,
    node: yaml.Node,
    where: Location,
    lines: dict[Location, int],
    parents: frozenset[int],
) -> object:
    line = node.start_mark.line + 1
    lines.setdefault(where, line)
    if id(node) in parents:
        raise LabError(f"{path}:{line}: an alias contains itself; write the value out instead.")
    inside = parents | {id(node)}
    if isinstance(node, yaml.MappingNode):
        mapping: dict[object, object] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            at = key_node.start_mark.line + 1
            if not isinstance(key, str | int):
                raise LabError(f"{path}:{at}: a key must be a word or a number; quote it.")
            here = (*where, key)
            if key in mapping:
                raise LabError(
                    f"{path}:{at}: {spell(here)} is given twice, first in line {lines[here]}; "
                    "keep one of them."
                )
            lines[here] = at
            mapping[key] = _plain(path, loader, value_node, here, lines, inside)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(path, loader, item, (*where, index), lines, inside)
            for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node)


def sentences(path: Path, lines: dict[Location, int], mistakes: list[tuple[Location, str]]) -> str:
    """Return the mistakes as lines of text, in the order of the file."""
    placed = sorted((_line_of(lines, where), text) for where, text in mistakes)
    return "\n".join(f"{path}:{line}: {text}" for line, text in placed)


def _line_of(lines: dict[Location, int], where: Location) -> int:
    while where not in lines:
        where = where[:-1]
    return lines[where]
