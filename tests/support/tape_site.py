"""A real site for tests: gates, secure element, key manager, token.

One site serves all tests of a run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, enrol_drives, lab_config
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.token import open_token
from hsm.provisioning import ProvisionedLab
from rig.board.sim import SimBoard
from rig.drive.cartridge import Cartridge
from rig.drive.drive import Drive
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.engine.driver import Engine
from rig.results.events import EventLog
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.proxy import EkmProxy
from rig.ve.tape.cartridge_store import CartridgeStore
from rig.ve.tape.sequences import DriveSequences
from rig.ve.volumes.logical_volume import VolumeFile
from tests.support.ekm_lab import SoftKek
from tests.support.provisioned import provision_lab

ELSEWHERE = "Key Of A Partner"
"""A KEK of which the site has only the certificate."""

SERIAL = "TAPE000001"


@dataclass
class Site:
    """The hardware and key manager that all tests of a run share."""

    lab: ProvisionedLab
    engine: Engine
    element: SecureElement
    ekm: EkmProcess
    proxy: EkmProxy
    outside: SoftKek  # a KEK made outside the token and imported, private half and all
    relayed: list[tuple[str, bytes]] = field(default_factory=list)  # what the VE passed on

    def drive(self) -> Drive:
        """Return the drive, empty."""
        ca = load_certificate(self.lab.ca).public_bytes(Encoding.DER)
        return Drive(self.engine, self.element, SERIAL, "TS1120", ekm_ca_der=ca)

    def fixture(
        self, folder: Path, *pools: PoolSettings, proxy: EkmProxy | None = None
    ) -> DriveFixture:
        """Return a drive with cartridges and pools of a test's own."""
        self.relayed.clear()
        events = EventLog()
        cartridges = CartridgeStore(folder / "cartridges")
        drive = self.drive()
        sequences = DriveSequences(drive, proxy or self.proxy, cartridges, events)
        settings = {pool.number: pool for pool in pools}
        return DriveFixture(self, sequences, drive, cartridges, settings, events, folder)

    def endpoint(self, ekm: EkmProcess) -> EkmEndpoint:
        """Where the VE finds a key manager."""
        return EkmEndpoint(ekm.host, ekm.port, self.lab.rig_tls)


@dataclass
class DriveFixture:
    """A drive's sequences, pools and cartridges, without a catalogue."""

    site: Site
    sequences: DriveSequences
    drive: Drive
    cartridges: CartridgeStore
    pools: dict[int, PoolSettings]
    events: EventLog
    folder: Path
    pool_of: dict[str, int] = field(default_factory=dict)
    scratch: set[str] = field(default_factory=set)
    file_count: int = 0

    def set_pool(self, pool: PoolSettings) -> None:
        """Replace the settings of a pool."""
        self.pools[pool.number] = pool

    def add(self, volser: str, pool: int) -> str:
        """Add a blank cartridge to a pool."""
        Cartridge.create(self.cartridges.path(volser), volser)
        self.pool_of[volser] = pool
        self.scratch.add(volser)
        return volser

    def write_from_bot(
        self, pool: int, volumes: Sequence[VolumeFile], volser: str | None = None
    ) -> str:
        """Write from BOT to a cartridge; return its VOLSER.

        It is the one named, else the pool's first scratch one, created when absent.
        """
        scratch = [each for each in sorted(self.scratch) if self.pool_of[each] == pool]
        chosen = volser or next(iter(scratch), None)
        if chosen is None:
            chosen = self.add(f"TAP{len(self.pool_of) + 1:03}", pool)
        self.sequences.write_from_bot(self.pools[pool], volumes, chosen)
        self.scratch.discard(chosen)
        return chosen

    def volumes(self, *sizes: int) -> list[VolumeFile]:
        """Make files of these sizes with unique bytes; return their volumes."""
        volumes = []
        for size in sizes:
            self.file_count += 1
            path = self.folder / f"file{self.file_count}"
            path.write_bytes(random.Random(self.file_count).randbytes(size))
            volumes.append(VolumeFile.of(f"L{self.file_count:05}", path))
        return volumes

    def steps(self) -> list[str]:
        """Return and clear the steps; failed ones end with an exclamation mark."""
        steps = [e.step + ("" if e.outcome == "ok" else "!") for e in self.events.events]
        self.events.events.clear()
        return steps

    def tape(self, volser: str) -> bytes:
        """Return all bytes of a cartridge's file."""
        return self.cartridges.path(volser).read_bytes()


def ekm_settings(lab: ProvisionedLab, folder: Path) -> EkmConfig:
    """Return a key manager on the lab's token, with the drives enrolled.

    It takes any free port.

    Its drive table and audit log are in `folder`.
    """
    config = lab_config(lab, port=0).replace(drive_table=folder / "drives", audit=folder / "audit")
    enrol_drives(config, lab)
    return config


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """Provision and start everything."""
    lab = provision_lab(folder / "state", ["KEK 1", "KEK 2"], [SERIAL])
    outside = SoftKek.make("Made Outside")
    with open_token(lab.ekm_token) as token:
        Keystore(token).import_kek(outside.label, outside.pem, outside.certificate)
    relayed: list[tuple[str, bytes]] = []
    with ExitStack() as stack:
        ekm = stack.enter_context(spawn_ekm(ekm_settings(lab, folder)))
        endpoint = EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)
        proxy = stack.enter_context(
            EkmProxy([endpoint], observer=lambda way, data: relayed.append((way, data)))
        )
        board = stack.enter_context(SimBoard(transport_key=lab.drive(SERIAL).transport_key))
        engine = Engine(board)
        engine.lock_plain_key()
        element = stack.enter_context(
            SecureElement.start(SecureElementConfig.of(lab.drive(SERIAL)))
        )
        yield Site(lab, engine, element, ekm, proxy, outside, relayed)


def sources(volumes: Sequence[VolumeFile]) -> list[bytes]:
    """Return the bytes of the volumes' files."""
    return [volume.source.read_bytes() for volume in volumes]
