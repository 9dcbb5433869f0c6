"""Have key managers forget the cartridges of a run that was kept.

Each node of such a run has a file that names its key managers: the configurations of those that
the rig administers (paths only, no secret), and the names of the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm.errors import TaperigError
from hsm.files import read_limited

if TYPE_CHECKING:
    from rig.testbed.session import LabSession

FILE = "key-managers.json"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class KeptCartridge:
    """An encrypted cartridge of a run."""

    volser: str
    cartridge_id: bytes
    node: Path | None
    """The folder of its node; None when the run has no file of key managers for it."""


def note_key_managers(folder: Path, sessions: Sequence[LabSession]) -> None:
    """Write the key managers of a node into its folder; raises OSError."""
    from hsm.ekm.config import dump_config

    administered: dict[str, dict[str, str]] = {}
    external: list[str] = []
    for session in sessions:
        external += session.external
        for config in session.administered():
            administered[str(config.audit)] = {
                "config": dump_config(config),
                "secret_file": str(session.provisioned.admin_secret),
            }
    content = {"administered": list(administered.values()), "external": sorted(set(external))}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def kept_cartridges(run_folder: Path) -> list[KeptCartridge]:
    """Return the encrypted cartridges in a run's folder.

    Key managers count them until they forget them. Only a run that did not pass still has some.
    """
    paths = sorted(run_folder.rglob("*.tape"))
    if not paths:
        return []
    from rig.drive.cartridge import Cartridge
    from rig.drive.cartridge_format import TapeFormat

    found = []
    for path in paths:
        with suppress(TaperigError, OSError), Cartridge.open(path) as cartridge:
            if cartridge.format is TapeFormat.ENCRYPTED:
                node = next((each for each in path.parents if (each / FILE).is_file()), None)
                identity = cartridge.memory.cartridge_id
                found.append(KeptCartridge(cartridge.volser, identity, node))
    return found


def forget(cartridges: Sequence[KeptCartridge]) -> Iterator[tuple[KeptCartridge, str]]:
    """Have the key managers forget cartridges.

    Yields each cartridge that one of them could not be told about, and why.
    """
    for node in dict.fromkeys(each.node for each in cartridges):
        there = [each for each in cartridges if each.node == node]
        reasons = ["its key managers are not known"] if node is None else _tell(node, there)
        if reasons:
            yield from ((each, "; ".join(reasons)) for each in there)


def _tell(node: Path, cartridges: Sequence[KeptCartridge]) -> list[str]:
    """Tell the key managers of a node; return why some could not be told."""
    try:
        noted = json.loads(read_limited(node / FILE, _MAX_BYTES))
        administered, external = list(noted["administered"]), list(map(str, noted["external"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{node / FILE} cannot be read ({error})"]
    reasons = [f"key manager {name} was not started by the rig" for name in external]
    for each in administered:
        try:
            _tell_one(each, cartridges)
        except (TaperigError, KeyError, TypeError) as error:
            reasons.append(str(error).removesuffix("."))
    return reasons


def _tell_one(noted: dict[str, Any], cartridges: Sequence[KeptCartridge]) -> None:
    from hsm.ekm.admin.administrator import Administrator, read_admin_secret
    from hsm.ekm.config import parse_config

    config = parse_config(noted["config"], FILE)
    if not config.audit.exists():
        return  # its memory is gone, and with it the cartridges
    secret = read_admin_secret(Path(noted["secret_file"]))
    Administrator([config], secret).forget_cartridges(
        (each.volser, each.cartridge_id) for each in cartridges
    )
