"""Checks across a lab file: names that must exist elsewhere, or only once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from hdl.errors import HdlError
from hsm.configuration.part import Location
from hsm.keys.labels import label_key
from hsm.pkcs11.pins import PIN_RULE
from rig.lab.base import NATIVE_RATES, RESOURCE_RULE
from rig.ve.ekm.host_address import canonical, is_address, is_host, overlap
from rig.ve.prerequisites import PrerequisiteError, require_encryption_settings

if TYPE_CHECKING:
    from rig.lab.model import BoardUnit, DriveUnit, EkmUnit, Lab, PoolUnit


def _clock_mistakes(name: str, board: BoardUnit) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong with the FPGA of a board or with its clock."""
    try:
        most = board.build_clock_mhz
    except HdlError as error:
        yield ("boards", name, "fpga"), f"boards.{name}.fpga: {error}"
        return
    # It is measured, unless its gates say that they are simulated; see open_board.
    if board.clock_mhz is None or (board.kind == "visa" and board.fpga is None):
        return
    if board.clock_mhz > most:
        of = "a board without fpga" if board.fpga is None else f"the builds of {board.fpga}"
        yield (
            ("boards", name, "clock_mhz"),
            f"boards.{name}.clock_mhz is {board.clock_mhz:g}, above the {most:g} MHz of {of}; "
            f"write at most {most:g}, or remove clock_mhz.",
        )


def cross_check(lab: Lab) -> Iterator[tuple[Location, str]]:
    """Yield the mistakes between the parts of a lab file, with their places."""
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
        if board.kind == "visa" and board.width is not None:
            yield (
                ("boards", name, "width"),
                f"boards.{name} is not simulated here, and its width is read from its gates; "
                "remove width, or set kind: sim.",
            )
        yield from _clock_mistakes(name, board)
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
        yield from _model_mistakes(index, drive)
    yield from _installation_mistakes(lab)
    names: set[str] = set()
    for index, ekm in enumerate(lab.ekms):
        if ekm.name in names:
            yield (
                ("ekms", index, "name"),
                f"two key managers have the name '{ekm.name}'; each has its own.",
            )
        names.add(ekm.name)
        if not is_host(ekm.host):
            yield (
                ("ekms", index, "host"),
                f"ekms[{index}].host is {ekm.host!r}; it must be an address or a host name.",
            )
        if ekm.token not in lab.tokens:
            yield ("ekms", index, "token"), _no_such("token", ekm.token, lab.tokens)
        if ekm.port == 0 and not ekm.start:
            yield (
                ("ekms", index, "port"),
                "port 0 is for a key manager that the rig starts; "
                "name the port of this one, or set start: true.",
            )
        for other in lab.ekms[:index] if ekm.port else ():
            if other.port == ekm.port and _one_address(ekm, other):
                yield (
                    ("ekms", index, "port"),
                    f"the key managers '{other.name}' and '{ekm.name}' have one address, "
                    f"{ekm.host} port {ekm.port}; give each a port of its own, or 0 for any free.",
                )
                break
    for index, server in enumerate(lab.dns):
        if not is_address(server.address):
            yield (
                ("dns", index, "address"),
                f"dns[{index}].address is {server.address!r}; it must be an IP address, since a "
                "name could only be looked up there.",
            )
    for name, token in lab.tokens.items():
        if token.module != "softhsm" and token.pin is None:
            yield (
                ("tokens", name),
                f"tokens.{name} has no pin; for a token of your own write {PIN_RULE}.",
            )
    node_mistakes = list(_node_mistakes(lab))
    yield from node_mistakes
    if not node_mistakes:
        yield from _token_mistakes(lab)
    labels: set[str] = set()
    for index, kek in enumerate(lab.keks):
        if label_key(kek.label) in labels:
            yield (
                ("keks", index, "label"),
                f"the key label {kek.label!r} is given twice (labels are compared without case).",
            )
        labels.add(label_key(kek.label))
        if kek.token is not None and kek.token not in lab.tokens:
            yield ("keks", index, "token"), _no_such("token", kek.token, lab.tokens)
    for number, pool in lab.pools.items():
        yield from _pool_mistakes(lab, ("pools", number), number, pool)


def _installation_mistakes(lab: Lab) -> Iterator[tuple[Location, str]]:
    """Yield the drives that are installed twice."""
    serials: set[str] = set()
    for index, drive in enumerate(() if lab.installation is None else lab.installation.drives):
        if drive.serial in serials:
            yield (
                ("installation", "drives", index, "serial"),
                f"installation.drives has the serial number {drive.serial} twice; each drive has "
                "its own.",
            )
        serials.add(drive.serial)


def _model_mistakes(index: int, drive: DriveUnit) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong with a drive's model and native rate."""
    known = NATIVE_RATES.get(drive.model)
    if known is None and drive.native_mb_per_s is None:
        near = difflib.get_close_matches(drive.model.upper(), NATIVE_RATES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(NATIVE_RATES)}."
        yield (
            ("drives", index, "model"),
            f"drives[{index}].model is {drive.model!r}, whose native rate is not known; {hint} "
            "For another model add native_mb_per_s.",
        )
    elif known is not None and drive.native_mb_per_s not in (None, known / 1e6):
        yield (
            ("drives", index, "native_mb_per_s"),
            f"drives[{index}].native_mb_per_s is {drive.native_mb_per_s:g}, and a {drive.model} "
            f"has {known / 1e6:g}; remove native_mb_per_s, or name another model.",
        )


def _one_address(ekm: EkmUnit, other: EkmUnit) -> bool:
    """Whether two key managers with one port are at one address."""
    if ekm.start and other.start:
        return overlap(ekm.host, other.host)
    return canonical(ekm.host) == canonical(other.host)


def _node_mistakes(lab: Lab) -> Iterator[tuple[Location, str]]:
    """Yield the mistakes in nodes: drives, key managers, constructs, pools."""
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
        if node.ekms is None and len(lab.ekms) > 2:
            yield (
                ("nodes", name) if ("nodes" in lab.model_fields_set) else ("ekms",),
                f"node {name} would have {len(lab.ekms)} key managers; a node has one or two, so "
                "name them: ekms: [PRIMARY, SECONDARY].",
            )
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
            yield from _pool_mistakes(lab, ("nodes", name, "pools", number), number, pool)


def _token_mistakes(lab: Lab) -> Iterator[tuple[Location, str]]:
    """Yield the pools without a key in the token of each key manager."""
    names = [name for name in lab.token_names if name in lab.tokens]
    if len(names) < 2:
        return
    if len({lab.tokens[name].label for name in names}) < len(names):
        yield (
            ("tokens",),
            "two tokens of key managers have the same label; use one token for both of them, or "
            "give each token a label of its own.",
        )
    homes = {label_key(kek.label): lab.home_of(kek) for kek in lab.keks}
    for node in lab.nodes:
        for number, pool in lab.pools_of(node).items():
            known = {homes.get(label_key(key.label)) for key in pool.keys}
            for ekm in lab.ekms_of(node):
                if ekm.start and pool.encrypt and None not in known and ekm.token not in known:
                    yield (
                        ("pools", number) if lab.nodes[node].pools is None else ("nodes", node),
                        f"pool {number} has no key in token '{ekm.token}', so key manager "
                        f"'{ekm.name}' could neither write nor read its tapes; give the pool a "
                        f"second key, of keks with token: {ekm.token}.",
                    )


def _pool_mistakes(
    lab: Lab, where: Location, number: int, pool: PoolUnit
) -> Iterator[tuple[Location, str]]:
    """Yield the mistakes in a pool: its keys, its encryption."""
    known = {label_key(kek.label): kek.label for kek in lab.keks}
    for index, key in enumerate(pool.keys):
        if label_key(key.label) not in known:
            near = difflib.get_close_matches(key.label, known.values(), n=1)
            yield (
                (*where, "keys", index, "label"),
                f"pool {number} names the key {key.label!r}, which keks does not list; "
                + (f"did you mean {near[0]!r}? Else list it, " if near else "list it there, ")
                + "with make: false when a token has it already.",
            )
    if pool.encrypt and not pool.keys:
        yield (
            where,
            f"pool {number} encrypts but has no keys; "
            "add keys: a list of one or two of {label: ..., mode: clear or hash}.",
        )
    if pool.encrypt and lab.installation is not None:
        try:
            require_encryption_settings(lab.installation.record(ekms=len(lab.ekms)))
        except PrerequisiteError as error:
            yield (*where, "encrypt"), f"pool {number} cannot encrypt: {error}"


def _no_such(what: str, name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}."
    return f"there is no {what} '{name}'; {hint}"
