"""Read YAML text into plain values and their lines, within limits.

A small file can become large when its aliases are replaced, so values are counted after that.
PyYAML reads 256 KiB in about 3 s; a real configuration has a few KiB.
"""

from __future__ import annotations

from typing import Final

import yaml
from yaml.composer import ComposerError

from hsm.configuration.part import Location, shown, spell

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 20_000
MAX_NUMBER: Final = 40
"""Characters of a number; Python converts no decimal number of more than 4,300 digits."""
MAX_SENTENCES: Final = 100
_COLLECTIONS: Final = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_NUMBERS: Final = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_SIGNS: Final = {"tag:yaml.org,2002:merge": "<<", "tag:yaml.org,2002:value": "="}
"""Words that YAML 1.1 takes for something else than text, by their tags."""


class YamlMistakeError(Exception):
    """A mistake in YAML text: its line and a sentence."""

    def __init__(self, line: int, text: str) -> None:
        """Store line and text."""
        super().__init__(line, text)
        self.line = line
        self.text = text


class WrittenFloat(float):
    """A number that knows how it is written, as 534.40."""

    text: str

    def __new__(cls, value: float, text: str) -> WrittenFloat:
        """Keep the text."""
        self = super().__new__(cls, value)
        self.text = text
        return self


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which recurses once a level, limited to MAX_DEPTH."""

    _depth = 0
    line: int
    """The current line of the text, from 0."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node unless it is nested too deeply."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep(self.line + 1)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _too_deep(line: int) -> YamlMistakeError:
    return YamlMistakeError(
        line, f"lists and maps are nested more than {MAX_DEPTH} deep; write them flatter."
    )


def read_yaml(text: str) -> tuple[object, dict[Location, int]]:
    """Return the document as plain values, and the line of each place.

    Raises YamlMistakeError.
    """
    if len(text) > MAX_BYTES:
        raise YamlMistakeError(1, f"the text is longer than {MAX_BYTES} characters; shorten it.")
    try:
        loader = _Loader(text)
    except yaml.YAMLError:
        raise YamlMistakeError(
            1, "this is not YAML text; it holds characters that YAML forbids."
        ) from None
    reader = _Reader(loader)
    try:
        root = loader.get_single_node()
        if root is None:
            raise YamlMistakeError(1, "the file is empty; start from an example of the project.")
        return reader.plain(root, (), frozenset()), reader.lines
    except ComposerError as error:
        raise _feature_mistake(error) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "it does not parse"
        if problem.startswith("but "):
            problem = f"{error.context} {problem}"
        raise YamlMistakeError(
            mark.line + 1 if mark else 1,
            f"this is not YAML: {problem}; "
            "check the indentation, the colons and the quotes of this line and the one before.",
        ) from None
    finally:
        loader.dispose()


def _feature_mistake(error: ComposerError) -> YamlMistakeError:
    """Return the mistake of a valid YAML text with documents or aliases."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    words = f"{error.context or ''} {error.problem or ''}"
    name = words.partition("'")[2].partition("'")[0]
    if "another document" in words:
        return YamlMistakeError(
            line, "a second YAML document begins here; a file holds one: remove the '---'."
        )
    if "undefined alias" in words:
        return YamlMistakeError(
            line, f"the alias *{name} has no anchor &{name} before it; write the value out instead."
        )
    return YamlMistakeError(
        line, f"the anchor &{name} was given before; give each anchor a name of its own."
    )


class _Reader:
    """Converts nodes to plain values and replaces aliases."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._values = 0
        self.lines: dict[Location, int] = {(): 1}

    def plain(self, node: yaml.Node, where: Location, parents: frozenset[int]) -> object:
        line = node.start_mark.line + 1
        self.lines.setdefault(where, line)
        if id(node) in parents:
            raise YamlMistakeError(line, "an alias contains itself; write the value out instead.")
        if len(where) >= MAX_DEPTH:
            raise _too_deep(line)
        self._values += 1
        if self._values > MAX_VALUES:
            raise YamlMistakeError(
                self.lines.get(where[:1], line),
                f"the file holds more than {MAX_VALUES} values once its aliases are replaced; "
                "remove aliases.",
            )
        inside = parents | {id(node)}
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise _tag_mistake(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where, inside)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.plain(item, (*where, index), inside) for index, item in enumerate(node.value)
            ]
        return self._scalar(node)

    def _mapping(
        self, node: yaml.MappingNode, where: Location, inside: frozenset[int]
    ) -> dict[str | int, object]:
        mapping: dict[str | int, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise YamlMistakeError(
                    line,
                    "merge keys (<<) are not taken; write the keys of the other map out here, or "
                    "quote the word.",
                )
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str | int):
                raise YamlMistakeError(line, "a key must be a word or a number; quote it.")
            here = (*where, key)
            if key in mapping:
                raise YamlMistakeError(
                    line,
                    f"{spell(here)} is given twice, first in line {self.lines[here]}; "
                    "keep one of them.",
                )
            self.lines[here] = line
            mapping[key] = self.plain(value_node, here, inside)
        return mapping

    def _scalar(self, node: yaml.Node) -> object:
        line = node.start_mark.line + 1
        if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER:
            raise YamlMistakeError(
                line,
                f"a number has {len(node.value)} characters; write one of at most {MAX_NUMBER}, "
                "or quote it when it is text.",
            )
        if node.tag in _SIGNS:
            raise YamlMistakeError(
                line, f"'{_SIGNS[node.tag]}' has a meaning of its own in YAML; quote it."
            )
        if node.tag not in self._loader.yaml_constructors:
            raise _tag_mistake(node)
        try:
            if node.tag == _NUMBERS[1]:
                return WrittenFloat(self._loader.construct_object(node), node.value)
            return self._loader.construct_object(node)
        except (ValueError, OverflowError, KeyError, AttributeError):  # as PyYAML raises them
            raise YamlMistakeError(
                line, f"{shown(node.value)} is not valid for the type that YAML infers; quote it."
            ) from None


def _tag_mistake(node: yaml.Node) -> YamlMistakeError:
    return YamlMistakeError(
        node.start_mark.line + 1,
        f"the tag {shown(node.tag.replace('tag:yaml.org,2002:', '!!'))} is not taken; remove it.",
    )


def sentences(name: str, lines: dict[Location, int], mistakes: list[tuple[Location, str]]) -> str:
    """Return the mistakes as lines of text, in the order of the file."""
    placed = sorted((_line_of(lines, where), text) for where, text in mistakes)
    described = [f"{name}:{line}: {text}" for line, text in placed[:MAX_SENTENCES]]
    if len(placed) > MAX_SENTENCES:
        described.append(f"{name}: and {len(placed) - MAX_SENTENCES} more.")
    return "\n".join(described)


def _line_of(lines: dict[Location, int], where: Location) -> int:
    while where not in lines:
        where = where[:-1]
    return lines[where]
