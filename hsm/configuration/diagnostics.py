"""Describe mistakes in configuration files, from pydantic's errors."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from hsm.configuration.part import Location, Part, shown, spell


def describe_all(
    root: type[Part], error: ValidationError, data: object
) -> list[tuple[Location, str]]:
    """Return each place where `data` breaks the model `root`, with a sentence."""
    found: dict[Location, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        where = _real_location(detail["loc"], data)
        is_key = "[key]" in detail["loc"]
        found.setdefault(where, _describe(root, where, detail["type"], is_key, data))
    # A list with a bad item also counts as too short; only the item is the mistake.
    return [
        (where, text)
        for where, text in found.items()
        if not any(len(other) > len(where) and other[: len(where)] == where for other in found)
    ]


def _real_location(loc: tuple[str | int, ...], data: object) -> Location:
    """Return a location without pydantic's marks such as ``[key]``."""
    where: list[str | int] = []
    here = data
    for part in loc:
        if part == "[key]":
            continue
        if isinstance(here, dict) and part not in here and str(part).isdecimal():
            part = int(part)
        where.append(part)
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            here = None
    return tuple(where)


class _Place(NamedTuple):
    """A place in a configuration file, as the models describe it."""

    holder: type[Part] | None
    """The model of the map that it is a key of."""
    annotation: Any
    """The type of its value."""
    rule: str
    """The description of a valid value."""
    key_rule: str
    """The description of a valid key."""


def _describe(root: type[Part], where: Location, kind: str, is_key: bool, data: object) -> str:
    place = _Place(None, root, f"a map with {', '.join(root.model_fields)}", "")
    for depth, part in enumerate(where):
        place = _inside(place, part)
        model = place.annotation
        if _is_part(model) and model.secret and kind != "missing":
            return (
                f"{spell(where[: depth + 1])}: {model.secret} is never written into "
                f"{root.file_kind}; write {place.rule}."
            )
    if kind == "missing":
        return f"{spell(where[:-1])} lacks '{where[-1]}'; it must be {place.rule}."
    if kind == "extra_forbidden":
        known = list(place.holder.model_fields) if place.holder else []
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."
        holder = spell(where[:-1]) if len(where) > 1 else root.file_kind
        return f"{_key(where)} is not a key of {holder}; {hint}"
    if is_key:
        return f"{_key(where)} cannot be a key of {spell(where[:-1])}; it must be {place.key_rule}."
    return f"{spell(where)} is {shown(_value_at(where, data))}; it must be {place.rule}."


def _key(where: Location) -> str:
    return shown(str(where[-1]))


def _value_at(where: Location, data: object) -> object:
    for part in where:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _inside(place: _Place, part: str | int) -> _Place:
    """Return the place under a key or at an index of another place."""
    annotation = place.annotation
    if _is_part(annotation):
        field = annotation.model_fields.get(str(part))
        if field is None:
            return _Place(annotation, None, "something else", "")
        return _Place(annotation, _bare(field.annotation), field.description or "", "")
    arguments = typing.get_args(annotation)
    if not arguments:
        return _Place(None, None, place.rule, "")
    is_map = typing.get_origin(annotation) is dict
    inner = arguments[1 if is_map else 0]
    rule = _description(inner) or place.rule
    if _is_part(_bare(inner)):
        rule = f"a map with {', '.join(_bare(inner).model_fields)}"
    elif _bare(inner) is Path:
        rule = "the path of a file or folder"
    return _Place(None, _bare(inner), rule, _description(arguments[0]) if is_map else "")


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Part)


def _description(annotation: Any) -> str:
    """Return the description in an ``Annotated`` type."""
    for extra in typing.get_args(annotation)[1:]:
        if isinstance(extra, FieldInfo) and extra.description:
            return extra.description
    return ""


def _bare(annotation: Any) -> Any:
    """Return a type without ``Annotated`` and ``| None``."""
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
            continue
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        if type(None) in typing.get_args(annotation) and len(rest) == 1:
            annotation = rest[0]
            continue
        return annotation
