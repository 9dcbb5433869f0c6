"""The model of lab.yaml: the equipment of a lab and the default scenario.

A mistake is reported with file, line, what is wrong and what would be right; every mistake of
the file at once, a line each. Values that could be secrets are never repeated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from hdl.widths import DEFAULT_WIDTH
from hsm.configuration.part import NAME_RULE, LocalPath, Name, Part, from_folder
from hsm.errors import LabelInvalidError
from hsm.keys.labels import normalize_label
from hsm.pkcs11.config import TokenSettings
from hsm.pkcs11.pins import PIN_RULE, PinSource
from rig.lab.base import NATIVE_RATES, RESOURCE_RULE
from rig.lab.base import LabError as LabError
from rig.lab.installation import InstallationPart


def _number_key(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _module(value: str, info: ValidationInfo) -> str:
    return value if value == SOFTHSM else str(from_folder(Path(value), info))


def _key_label(value: str) -> str:
    try:
        normalize_label(value)
    except LabelInvalidError:
        raise ValueError(LABEL_RULE) from None
    return value


SOFTHSM = "softhsm"
"""What a lab file writes for the module of a token that the rig makes."""
LABEL_RULE = "a key label of 1 to 64 printable characters"
Label = Annotated[str, AfterValidator(_key_label)]
PoolNumber = Annotated[
    int,
    BeforeValidator(_number_key),
    Field(ge=1, le=32, description="a number from 1 to 32"),
]
SecondaryPool = Annotated[int, Field(ge=0, le=32, description="a number from 0 to 32")]


ASSUMED_MHZ = 62.5
"""Clock of gates of which no build is recorded; place and route gives more for all boards."""


class BoardUnit(Part):
    """A board that carries the gates."""

    kind: Literal["sim", "visa"] = Field(
        description="'sim' (the gates under Verilator) or 'visa' (a board at a VISA resource)"
    )
    clock_mhz: float | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="a number from 1 to 1000",
    )
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
        description="an FPGA board of `rig board targets`, whose last good build gives clock_mhz "
        "its default and limit, also for simulated gates; without a build both are 62.5",
    )
    width: Literal[16, 8, 4, 1] | None = Field(
        default=None,
        description="of a simulated board's gates, 16, 8, 4 or 1 bytes a clock; 16 when absent",
    )

    @property
    def word_bytes(self) -> int:
        """The width of simulated gates; that of others is read from them."""
        return DEFAULT_WIDTH if self.width is None else self.width

    @property
    def clock_hz(self) -> float:
        """The clock of the gates, in hertz: that of lab.yaml, or by default."""
        return 1e6 * (self.build_clock_mhz if self.clock_mhz is None else self.clock_mhz)

    @property
    def build_clock_mhz(self) -> float:
        """Clock of the last good build of ``fpga``; ASSUMED_MHZ without one.

        Raises HdlError when `fpga` is unknown or its last build cannot be read.
        """
        from hdl.fpga.targets import find_target, last_build

        build = None if self.fpga is None else last_build(find_target(self.fpga))
        return ASSUMED_MHZ if build is None else build.clock_mhz


class DriveUnit(Part):
    """A tape drive, and the board that is its encryption hardware."""

    serial: str = Field(
        pattern=r"^[A-Z0-9]{1,12}$",
        description="1 to 12 capital letters and digits, quoted when all are digits",
    )
    model: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,31}$",
        description=f"one of {', '.join(NATIVE_RATES)}, or with native_mb_per_s another name of 1 "
        "to 32 letters, digits, spaces, '.', '_' and '-'",
    )
    native_mb_per_s: float | None = Field(
        default=None,
        ge=10,
        le=10_000,
        description="a number of MB/s from 10 to 10000, the native rate of any other model",
    )
    board: Name = Field(description="the name of one of the boards")

    @property
    def native_rate(self) -> float:
        """Native data rate in bytes a second."""
        if self.native_mb_per_s is not None:
            return self.native_mb_per_s * 1e6
        return NATIVE_RATES[self.model]


class TokenUnit(TokenSettings):
    """A PKCS#11 token."""

    module: Annotated[str, AfterValidator(_module)] = Field(
        min_length=1, description="'softhsm' or the path of a PKCS#11 library"
    )
    pin: PinSource | None = Field(default=None, description=PIN_RULE)


class EkmUnit(Part):
    """A key manager; the rig starts it itself when ``start`` is true."""

    name: Name = Field(description=NAME_RULE)
    host: str = Field(default="127.0.0.1", min_length=1, description="an address or a host name")
    port: int = Field(
        default=3801, ge=0, le=65535, description="a TCP port from 1 to 65535, or 0 for any free"
    )
    start: bool = Field(default=True, description="true or false")
    token: Name = Field(description="the name of one of the tokens")


class DnsUnit(Part):
    """A DNS server at which host names of key managers are looked up."""

    address: str = Field(min_length=1, max_length=64, description="an IP address")
    port: int = Field(default=53, ge=1, le=65535, description="a port from 1 to 65535")


class KekUnit(Part):
    """A key-encryption key (KEK) that pools may name."""

    label: Label = Field(description=LABEL_RULE)
    bits: Literal[2048, 3072, 4096] = Field(default=2048, description="2048, 3072 or 4096")
    token: Name | None = Field(
        default=None,
        description="the name of its home token, by default that of the first key manager; with "
        "make: false any token may have it by default",
    )
    make: bool = Field(
        default=True,
        description="true (made in the token when absent) or false (it is in the token already)",
    )


class PoolKey(Part):
    """One of a pool's two keys: its label and its mode in the EEDK."""

    label: Label = Field(description=LABEL_RULE)
    mode: Literal["clear", "hash"] = Field(default="clear", description="'clear' or 'hash'")


class PoolUnit(Part):
    """A storage pool and whether it encrypts."""

    encrypt: bool = Field(description="true or false")
    keys: tuple[PoolKey, ...] = Field(
        default=(),
        max_length=2,
        strict=False,
        description="a list of one or two keys, each {label: ..., mode: clear or hash}",
    )
    allow_public_only: bool = Field(default=False, description="true or false")


class NodeUnit(Part):
    """A node: its drives, key managers and pools (EKM-10)."""

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


class ScenarioPart(Part):
    """The data that ``rig run`` writes and reads."""

    data: tuple[LocalPath, ...] | None = Field(
        default=None, strict=False, min_length=1, description="a list of files and folders"
    )
    cap_mb: float = Field(
        default=8.0, gt=0, le=100_000, description="a number of megabytes above 0, at most 100000"
    )


class Lab(Part):
    """A whole lab.yaml."""

    file_kind: ClassVar[str] = "the lab file"
    file_hint: ClassVar[str] = "name another with --lab, or start from the lab.yaml of the project"

    name: Name = Field(description=NAME_RULE)
    boards: dict[Name, BoardUnit] = Field(min_length=1, description="a map of boards by name")
    drives: tuple[DriveUnit, ...] = Field(
        min_length=1, strict=False, description="a list of at least one drive"
    )
    tokens: dict[Name, TokenUnit] = Field(min_length=1, description="a map of tokens by name")
    ekms: tuple[EkmUnit, ...] = Field(
        min_length=1, max_length=16, strict=False, description="a list of one or two key managers"
    )
    dns: tuple[DnsUnit, ...] = Field(
        default=(),
        max_length=2,
        strict=False,
        description="a list of one or two DNS servers, primary and alternate, each {address: ...}",
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

    def ekms_of(self, node: str) -> tuple[EkmUnit, ...]:
        """Return the key managers of a node, the primary first (EKM-10)."""
        names = self.nodes[node].ekms
        if names is None:
            return self.ekms
        known = {ekm.name: ekm for ekm in self.ekms}
        return tuple(known[name] for name in names)

    def pools_of(self, node: str) -> dict[int, PoolUnit]:
        """Return the pools of a node by number (EKM-10)."""
        pools = self.nodes[node].pools
        return self.pools if pools is None else pools

    def drives_of(self, node: str) -> tuple[DriveUnit, ...]:
        """Return the drives of a node (EKM-10)."""
        serials = self.nodes[node].drives
        return tuple(each for each in self.drives if serials is None or each.serial in serials)

    @property
    def token_names(self) -> tuple[str, ...]:
        """The tokens to prepare: of the first key manager, and of all started."""
        names = [self.ekms[0].token, *(ekm.token for ekm in self.ekms if ekm.start)]
        return tuple(dict.fromkeys(names))

    def home_of(self, kek: KekUnit) -> str | None:
        """Return a KEK's home token; None when any token may have it already."""
        return kek.token or (self.ekms[0].token if kek.make else None)

    @property
    def run_node(self) -> str:
        """The node of ``rig run``: the first."""
        return next(iter(self.nodes))

    def labels_of(self, node: str) -> tuple[str, ...]:
        """Return the key labels of a node, in the order of its pools (EKM-11)."""
        pools = sorted(self.pools_of(node).items())
        return tuple(dict.fromkeys(key.label for _, pool in pools for key in pool.keys))

    @property
    def fastest_rate(self) -> float:
        """Native rate of the fastest drive, in bytes a second."""
        return max(drive.native_rate for drive in self.drives)
