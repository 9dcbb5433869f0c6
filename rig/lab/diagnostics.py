"""What is wrong with a lab file's form, and what would be right: pydantic's findings in words."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError

from rig.lab.base import NAME_RULE, PIN_RULE, Location, Part, spell


def describe_all(
    root: type[Part], error: ValidationError, data: object
) -> list[tuple[Location, str]]:
    """Return each place where `data` is not what the model `root` wants, with a sentence."""
    found: dict[Location, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        where = _real_location(detail["loc"], data)
        is_key = "[key]" in detail["loc"]
        found.setdefault(where, _describe(root, where, detail["type"], is_key, data))
    # A list with a bad item is also counted as too short; only the item is the mistake.
    return [
        (where, text)
        for where, text in found.items()
        if not any(len(other) > len(where) and other[: len(where)] == where for other in found)
    ]


def _real_location(loc: tuple[str | int, ...], data: object) -> Location:
    """Pydantic's location without its own marks, such as ``[key]``, and with keys as written."""
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


def _describe(root: type[Part], where: Location, kind: str, is_key: bool, data: object) -> str:
    model, rule = _walk(root, where)
    name = spell(where)
    if {"pin", "so_pin"} & set(where) and kind not in ("extra_forbidden", "missing"):
        return (
            f"{spell(where[: where.index('pin') + 1])}: a PIN is never written into a lab file; "
            f"write {PIN_RULE}."
        )
    if kind == "missing":
        return f"{spell(where[:-1])} lacks '{where[-1]}'; it must be {rule}."
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."
        place = spell(where[:-1]) if len(where) > 1 else "a lab file"
        return f"'{where[-1]}' is not a key of {place}; {hint}"
    if is_key:
        rule = "a number from 1 to 32" if where[0] == "pools" else NAME_RULE
        return f"'{where[-1]}' cannot be a key of {spell(where[:-1])}; it must be {rule}."
    value = _value_at(where, data)
    shown = "empty" if value is None else repr(value)
    if isinstance(value, dict | list):
        shown = "a map" if isinstance(value, dict) else f"a list of {len(value)}"
    return f"{name} is {shown}; it must be {rule}."


def _value_at(where: Location, data: object) -> object:
    for part in where:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _walk(root: type[Part], where: Location) -> tuple[type[Part] | None, str]:
    """The model that holds a place, and what the place must hold, in words."""
    model: type[Part] | None = None
    annotation: Any = root
    rule = f"a map with {', '.join(root.model_fields)}"
    for part in where:
        if isinstance(annotation, type) and issubclass(annotation, Part):
            model = annotation
            field = annotation.model_fields.get(str(part))
            if field is None:
                break
            annotation, rule = _bare(field.annotation), field.description or "something else"
            continue
        arguments = typing.get_args(annotation)
        if not arguments:
            break
        annotation = _bare(arguments[1 if typing.get_origin(annotation) is dict else 0])
        if isinstance(annotation, type) and issubclass(annotation, Part):
            rule = f"a map with {', '.join(annotation.model_fields)}"
        elif annotation is Path:
            rule = "the path of a file or folder"
    return model, rule


def _bare(annotation: Any) -> Any:
    """The type without ``Annotated`` and ``| None``."""
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
            continue
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        if type(None) in typing.get_args(annotation) and len(rest) == 1:
            annotation = rest[0]
            continue
        return annotation
