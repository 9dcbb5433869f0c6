"""lab.yaml: what stands in the lab and what the default scenario runs, parsed and checked.

A mistake is reported with file, line, what is wrong and what would be right; every mistake of
the file at once, a line each. Values that could be secrets are never repeated.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from hdl.errors import HdlError
from hdl.targets import find_target, last_build
from hsm.errors import TaperigError
from hsm.limits import Limit
from rig.lab_installation import InstallationPart
from rig.lab_part import Part as _Part
from rig.ve.prerequisites import PrerequisiteError, require_encryption_settings

NATIVE_RATES: dict[str, float] = {
    "TS1120": 104e6,
    "TS1140": 250e6,
    "TS1160": 400e6,
    "TS1170": 400e6,
}
"""Native data rate of each drive model, in bytes a second."""

Location = tuple[str | int, ...]


class LabError(TaperigError):
    """lab.yaml cannot be read, or says something that cannot be."""


def _number_key(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Label = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
PoolNumber = Annotated[int, BeforeValidator(_number_key), Field(ge=1, le=32)]
SecondaryPool = Annotated[int, Field(ge=0, le=32)]
LABEL_RULE = "a key label of 1 to 64 printable characters"
RESOURCE_RULE = "a VISA resource, 'ASRL/dev/ttyUSB0::INSTR' or 'TCPIP::HOST::PORT::SOCKET'"
NAME_RULE = "a name of letters, digits, '.', '_' and '-'"


class Board(_Part):
    """A board that carries the gates."""

    kind: Literal["sim", "visa"] = Field(
        description="'sim' (the gates under Verilator) or 'visa' (a board at a VISA resource)"
    )
    clock_mhz: float = Field(default=62.5, ge=1, le=1000, description="a number from 1 to 1000")
    resource: str | None = Field(
        default=None,
        pattern=r"^(ASRL\S+::INSTR|TCPIP\d*::\S+::\d+::SOCKET)$",
        description=RESOURCE_RULE,
    )
    baud: int = Field(
        default=1_000_000, ge=300, le=12_000_000, description="a rate of the serial line, in bits/s"
    )
    fpga: str | None = Field(
        default=None,
        min_length=1,
        description="an FPGA board of `rig board list`, whose last good build limits clock_mhz",
    )

    @property
    def clock_hz(self) -> float:
        """The clock of the gates, in hertz."""
        return self.clock_mhz * 1e6


class DriveUnit(_Part):
    """A tape drive, and the board that is its encryption hardware."""

    serial: str = Field(
        pattern=r"^[A-Z0-9]{1,12}$",
        description="1 to 12 capital letters and digits, quoted when all are digits",
    )
    model: Literal["TS1120", "TS1140", "TS1160", "TS1170"] = Field(
        description="one of TS1120, TS1140, TS1160, TS1170"
    )
    board: Name = Field(description="the name of one of the boards")

    @property
    def native_rate(self) -> float:
        """Native data rate in bytes a second."""
        return NATIVE_RATES[self.model]


class PinSource(_Part):
    """Where a PIN is read from when it is needed; never the PIN itself."""

    env: str | None = Field(default=None, min_length=1, description="an environment variable")
    file: Path | None = Field(default=None, strict=False, description="the path of a file")

    @model_validator(mode="after")
    def _exactly_one(self) -> PinSource:
        if (self.env is None) == (self.file is None):
            raise ValueError("exactly one of env and file")
        return self


PIN_RULE = "'{env: NAME}' or '{file: PATH}', the place of the PIN"


class TokenUnit(_Part):
    """A PKCS#11 token."""

    module: str = Field(min_length=1, description="'softhsm' or the path of a PKCS#11 library")
    label: str = Field(min_length=1, max_length=32, description="a token label of 1 to 32 letters")
    pin: PinSource | None = Field(default=None, description=PIN_RULE)
    so_pin: PinSource | None = Field(default=None, description=PIN_RULE)
    accept: tuple[Annotated[Limit, Field(strict=False)], ...] = Field(
        default=(), strict=False, description=f"a list of {', '.join(Limit)}"
    )


class EkmUnit(_Part):
    """A key manager; the rig starts it itself when ``start`` is true."""

    name: Name = Field(description=NAME_RULE)
    host: str = Field(default="127.0.0.1", min_length=1, description="an address or a host name")
    port: int = Field(
        default=3801, ge=0, le=65535, description="a TCP port from 1 to 65535, or 0 for any free"
    )
    start: bool = Field(default=True, description="true or false")
    token: Name = Field(description="the name of one of the tokens")


class KekUnit(_Part):
    """A key-encryption key that is made in the token when it is absent."""

    label: Label = Field(description=LABEL_RULE)
    bits: Literal[2048, 3072, 4096] = Field(default=2048, description="2048, 3072 or 4096")


class PoolKey(_Part):
    """One of a pool's two keys: its label, and what the EEDK says of it."""

    label: Label = Field(description=LABEL_RULE)
    mode: Literal["clear", "hash"] = Field(default="clear", description="'clear' or 'hash'")


class PoolUnit(_Part):
    """A storage pool and whether it encrypts."""

    encrypt: bool = Field(description="true or false")
    keys: tuple[PoolKey, ...] = Field(
        default=(),
        max_length=2,
        strict=False,
        description="a list of one or two keys, each {label: ..., mode: clear or hash}",
    )
    allow_public_only: bool = Field(default=False, description="true or false")


class NodeUnit(_Part):
    """A node: a virtualization engine with drives, key managers and pools of its own (EKM-10)."""

    drives: tuple[str, ...] | None = Field(
        default=None, strict=False, min_length=1, description="a list of serial numbers of drives"
    )
    ekms: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        max_length=2,
        description="a list of one or two names of key managers, the primary first",
    )
    pools: dict[PoolNumber, PoolUnit] | None = Field(
        default=None, strict=False, min_length=1, description="a map of pools by number, 1 to 32"
    )
    storage_groups: dict[Name, PoolNumber] = Field(
        default={}, strict=False, description="a map of pool numbers by storage group"
    )
    management_classes: dict[Name, SecondaryPool] = Field(
        default={},
        strict=False,
        description="a map of secondary pools by management class, 0 for no copy",
    )
    cache_mb: float = Field(default=1000.0, gt=0, description="a number of megabytes above 0")
    cartridge_mb: float = Field(default=100.0, gt=0, description="a number of megabytes above 0")
    cartridges: int = Field(
        default=10, ge=0, le=10_000, description="a number of cartridges from 0 to 10000"
    )


class ScenarioPart(_Part):
    """What ``rig run`` writes and reads."""

    data: tuple[Path, ...] | None = Field(
        default=None, strict=False, min_length=1, description="a list of files and folders"
    )
    cap_mb: float = Field(
        default=8.0, gt=0, le=100_000, description="a number of megabytes above 0, at most 100000"
    )


class Lab(_Part):
    """A whole lab.yaml."""

    name: Name = Field(description=NAME_RULE)
    boards: dict[Name, Board] = Field(min_length=1, description="a map of boards by name")
    drives: tuple[DriveUnit, ...] = Field(
        min_length=1, strict=False, description="a list of at least one drive"
    )
    tokens: dict[Name, TokenUnit] = Field(min_length=1, description="a map of tokens by name")
    ekms: tuple[EkmUnit, ...] = Field(
        min_length=1, max_length=2, strict=False, description="a list of one or two key managers"
    )
    keks: tuple[KekUnit, ...] = Field(
        default=(), strict=False, description="a list of keys, each {label: ...}"
    )
    pools: dict[PoolNumber, PoolUnit] = Field(
        min_length=1, strict=False, description="a map of pools by number, 1 to 32"
    )
    nodes: dict[Name, NodeUnit] = Field(
        default={"main": NodeUnit()},
        strict=False,
        min_length=1,
        description="a map of nodes by name",
    )
    scenario: ScenarioPart = Field(
        default_factory=ScenarioPart, description="a map with data and cap_mb"
    )

    installation: InstallationPart | None = Field(
        default=None, description="a map with library, microcode, features and drives"
    )

    @property
    def fastest_rate(self) -> float:
        """Native rate of the fastest drive configured, in bytes a second."""
        return max(drive.native_rate for drive in self.drives)


def load_lab(path: Path) -> Lab:
    """Read and check a lab file; relative paths in it are taken from its own folder."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"The lab file {path} cannot be read ({error.strerror}); "
            "name another with --lab, or start from the lab.yaml of the project."
        ) from None
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: byte {error.start} is not UTF-8; please save it so.") from None
    data, lines = _parse(path, text)
    try:
        lab = Lab.model_validate(data)
    except ValidationError as error:
        raise LabError(_sentences(path, lines, _describe_all(error, data))) from None
    mistakes = list(_cross_check(lab))
    if mistakes:
        raise LabError(_sentences(path, lines, mistakes))
    return _with_absolute_paths(lab, path.absolute().parent)


def _with_absolute_paths(lab: Lab, folder: Path) -> Lab:
    def absolute(path: Path) -> Path:
        return folder / path.expanduser()

    tokens = {}
    for name, token in lab.tokens.items():
        pins = {
            name: PinSource(file=absolute(pin.file)) if pin and pin.file else pin
            for name, pin in (("pin", token.pin), ("so_pin", token.so_pin))
        }
        module = token.module
        if module != "softhsm":
            module = str(absolute(Path(module)))
        tokens[name] = token.model_copy(update={**pins, "module": module})
    scenario = lab.scenario
    if scenario.data is not None:
        scenario = scenario.model_copy(update={"data": tuple(map(absolute, scenario.data))})
    return lab.model_copy(update={"tokens": tokens, "scenario": scenario})


# YAML with lines ---------------------------------------------------------------------------------


def _parse(path: Path, text: str) -> tuple[object, dict[Location, int]]:
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
                    f"{path}:{at}: {_spell(here)} is given twice, first in line {lines[here]}; "
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


# What is wrong, and what would be right ----------------------------------------------------------


def _sentences(path: Path, lines: dict[Location, int], mistakes: list[tuple[Location, str]]) -> str:
    placed = sorted((_line_of(lines, where), text) for where, text in mistakes)
    return "\n".join(f"{path}:{line}: {text}" for line, text in placed)


def _line_of(lines: dict[Location, int], where: Location) -> int:
    while where not in lines:
        where = where[:-1]
    return lines[where]


def _spell(where: Location) -> str:
    """``boards.sim.clock_mhz``, ``drives[0].serial``."""
    text = ""
    for part in where:
        if isinstance(part, int) and text and not text.endswith("pools"):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text or "the file"


def _describe_all(error: ValidationError, data: object) -> list[tuple[Location, str]]:
    found: dict[Location, str] = {}
    for detail in error.errors(include_url=False, include_context=False):
        where = _real_location(detail["loc"], data)
        is_key = "[key]" in detail["loc"]
        found.setdefault(where, _describe(where, detail["type"], is_key, data))
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


def _describe(where: Location, kind: str, is_key: bool, data: object) -> str:
    model, rule = _walk(where)
    name = _spell(where)
    if {"pin", "so_pin"} & set(where) and kind not in ("extra_forbidden", "missing"):
        return (
            f"{_spell(where[: where.index('pin') + 1])}: a PIN is never written into a lab file; "
            f"write {PIN_RULE}."
        )
    if kind == "missing":
        return f"{_spell(where[:-1])} lacks '{where[-1]}'; it must be {rule}."
    if kind == "extra_forbidden":
        known = list(model.model_fields) if model else []
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."
        place = _spell(where[:-1]) if len(where) > 1 else "a lab file"
        return f"'{where[-1]}' is not a key of {place}; {hint}"
    if is_key:
        rule = "a number from 1 to 32" if where[0] == "pools" else NAME_RULE
        return f"'{where[-1]}' cannot be a key of {_spell(where[:-1])}; it must be {rule}."
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


def _walk(where: Location) -> tuple[type[_Part] | None, str]:
    """The model that holds a place, and what the place must hold, in words."""
    model: type[_Part] | None = None
    annotation: Any = Lab
    rule = f"a map with {', '.join(Lab.model_fields)}"
    for part in where:
        if isinstance(annotation, type) and issubclass(annotation, _Part):
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
        if isinstance(annotation, type) and issubclass(annotation, _Part):
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


def _fpga_mistakes(name: str, board: Board, fpga: str) -> Iterator[tuple[Location, str]]:
    """What the gates in an FPGA cannot be: simulated, or clocked faster than they were routed."""
    try:
        build = last_build(find_target(fpga))
    except HdlError as error:
        yield ("boards", name, "fpga"), f"boards.{name}.fpga: {error}"
        return
    if board.kind == "sim":
        yield (
            ("boards", name, "fpga"),
            f"boards.{name} is simulated and in no FPGA; remove fpga, or set kind: visa.",
        )
    elif build is None:
        yield (
            ("boards", name, "fpga"),
            f"boards.{name}.fpga: no build of {fpga} has met its clock yet, so nobody knows how "
            f"fast it may run; make one with: rig board build {fpga} --record",
        )
    elif board.clock_mhz > build.fmax_mhz:
        yield (
            ("boards", name, "clock_mhz"),
            f"boards.{name}.clock_mhz is {board.clock_mhz:g}, and the gates of the last good build "
            f"of {fpga} work up to {build.fmax_mhz:g} MHz; write {build.clock_mhz:g}, the clock "
            "that this build runs at.",
        )


def _cross_check(lab: Lab) -> Iterator[tuple[Location, str]]:
    """Names that must exist elsewhere in the file, and must not exist twice."""
    for name, board in lab.boards.items():
        if board.kind == "visa" and board.resource is None:
            yield (
                ("boards", name),
                f"boards.{name} has no resource; write resource: {RESOURCE_RULE}.",
            )
        if board.kind == "sim" and board.resource is not None:
            yield (
                ("boards", name, "resource"),
                f"boards.{name} is simulated and has no resource; remove it, or set kind: visa.",
            )
        if board.fpga is not None:
            yield from _fpga_mistakes(name, board, board.fpga)
    serials: set[str] = set()
    for index, drive in enumerate(lab.drives):
        if drive.board not in lab.boards:
            yield ("drives", index, "board"), _no_such("board", drive.board, lab.boards)
        if drive.serial in serials:
            yield (
                ("drives", index, "serial"),
                f"two drives have the serial number {drive.serial}; each has its own.",
            )
        serials.add(drive.serial)
    for index, ekm in enumerate(lab.ekms):
        if ekm.token not in lab.tokens:
            yield ("ekms", index, "token"), _no_such("token", ekm.token, lab.tokens)
        if ekm.port == 0 and not ekm.start:
            yield (
                ("ekms", index, "port"),
                "port 0 is for a key manager that the rig starts; "
                "name the port of this one, or set start: true.",
            )
    for name, token in lab.tokens.items():
        if token.module != "softhsm" and token.pin is None:
            yield (
                ("tokens", name),
                f"tokens.{name} has no pin; for a token of your own write {PIN_RULE}.",
            )
    yield from _node_mistakes(lab)
    labels: set[str] = set()
    for index, kek in enumerate(lab.keks):
        if kek.label.casefold() in labels:
            yield (
                ("keks", index, "label"),
                f"the key label {kek.label!r} is given twice (labels are compared without case).",
            )
        labels.add(kek.label.casefold())
    for number, pool in lab.pools.items():
        if pool.encrypt and not pool.keys:
            yield (
                ("pools", number),
                _no_keys(number),
            )
        if pool.encrypt and lab.installation is not None:
            try:
                require_encryption_settings(lab.installation.record(ekms=len(lab.ekms)))
            except PrerequisiteError as error:
                yield ("pools", number, "encrypt"), f"pool {number} cannot encrypt: {error}"


def _node_mistakes(lab: Lab) -> Iterator[tuple[Location, str]]:
    """A drive belongs to one node; drives and key managers exist; constructs name pools."""
    owner: dict[str, str] = {}
    serials = [drive.serial for drive in lab.drives]
    names = [ekm.name for ekm in lab.ekms]
    for name, node in lab.nodes.items():
        for index, serial in enumerate(node.drives or serials):
            where: Location = ("nodes", name, "drives", index)
            if serial not in serials:
                yield where, _no_such("drive", serial, serials)
            elif serial in owner:
                yield (
                    where,
                    f"drive {serial} belongs to node {owner[serial]} already; list the drives of "
                    "each node.",
                )
            owner[serial] = name
        for index, ekm in enumerate(node.ekms or ()):
            if ekm not in names:
                yield ("nodes", name, "ekms", index), _no_such("key manager", ekm, names)
        pools = lab.pools if node.pools is None else node.pools
        for kind, constructs in (
            ("storage_groups", node.storage_groups),
            ("management_classes", node.management_classes),
        ):
            for construct, number in constructs.items():
                if number != 0 and number not in pools:
                    yield (
                        ("nodes", name, kind, construct),
                        f"pool {number} of '{construct}' is not among the pools of node {name}.",
                    )
        for number, pool in (node.pools or {}).items():
            if pool.encrypt and not pool.keys:
                yield ("nodes", name, "pools", number), _no_keys(number)


def _no_keys(number: int) -> str:
    return (
        f"pool {number} encrypts but has no keys; "
        "add keys: a list of one or two of {label: ..., mode: clear or hash}."
    )


def _no_such(what: str, name: str, known: typing.Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
    return f"there is no {what} '{name}'; {hint}"


def default_lab_path() -> Path:
    """``lab.yaml`` of the folder one stands in, else that of the project's own sources."""
    here = Path("lab.yaml")
    if here.exists() or not (home := Path(__file__).parent.parent / "lab.yaml").exists():
        return here
    return Path(os.path.relpath(home)) if home.is_relative_to(Path.cwd()) else home
