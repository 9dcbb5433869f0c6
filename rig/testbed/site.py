"""A site: a token, an authority and two key managers of its own.

Sites know of each other by certificates only: those of KEKs, under labels that each site chooses,
and those by which key managers sign EEDKs. The same drive is used at each site: it shows the same
certificate and wrapping key, and trusts the key managers of the site where it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.ekm.client import EkmEndpoint
from hsm.ekm.config import EkmConfig, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.service.launch import EkmProcess, spawn_ekm
from hsm.files import private_directory
from hsm.keys.pki import load_certificate
from hsm.provisioning import (
    ProvisionedDrive,
    ProvisionedLab,
    import_certificates,
    one_token_plan,
    provision,
)
from rig.results.events import EventLog
from rig.ve.ekm.proxy import EkmProxy, Observer

PAIR = ("primary", "secondary")


@dataclass
class KeySite:
    """One site, and its key managers while they run."""

    name: str
    folder: Path
    labels: tuple[str, ...]
    drive: ProvisionedDrive
    drive_ca: Path
    partners: list[Path] = field(default_factory=list)
    running: dict[str, EkmProcess] = field(default_factory=dict)
    provisioned: ProvisionedLab = field(init=False)

    def __post_init__(self) -> None:
        """Provision what the site lacks."""
        drives = {self.drive.serial: self.drive.wrap_public_der}
        self.provisioned = provision(
            one_token_plan(self.folder, self.labels, partner_drives=drives)
        )

    @property
    def ca_der(self) -> bytes:
        """The authority that a drive trusts here (X.509 DER)."""
        return load_certificate(self.provisioned.ca).public_bytes(Encoding.DER)

    def certificate(self, label: str) -> bytes:
        """Return the certificate (DER) of one of the site's own KEKs."""
        return self.provisioned.first_token.keks[label]

    def import_certificates(self, other: KeySite, labels: Mapping[str, str]) -> None:
        """Import another site's certificates: of its KEKs and its EKM.

        ``labels`` gives the other site's label by the one that the key gets here.
        """
        import_certificates(
            self.provisioned, {here: other.certificate(there) for here, there in labels.items()}
        )
        partner = self.folder / "partners" / f"{other.name}-ekm.pem"
        private_directory(partner.parent)
        shutil.copyfile(other.provisioned.ekm_certificate, partner)
        self.partners.append(partner)

    def ekm_config(self, which: str) -> EkmConfig:
        """Return the configuration of one key manager, on any free port.

        Its drive table has the drive.
        """
        config = lab_config(self.provisioned, port=0, name=which)
        config = config.replace(drive_ca=self.drive_ca, partners=tuple(self.partners))
        drive = self.drive
        with DriveTable(config.drive_table) as table:
            table.enrol(drive.serial, drive.certificate_der, drive.wrap_public_der, drive.oaep_hash)
        return config

    def start(self, which: str) -> EkmProcess:
        """Start one key manager; a second start uses the same port."""
        before = self.running.get(which)
        config = self.ekm_config(which)
        if before is not None:
            config = config.replace(port=before.port)
        self.running[which] = spawn_ekm(config)
        return self.running[which]

    def stop(self) -> None:
        """Stop the key managers that run."""
        for process in self.running.values():
            process.stop()

    def _how_it_ended(self, which: str) -> str | None:
        return self.running[which].how_it_ended()

    def endpoints(self) -> Sequence[EkmEndpoint]:
        """Return the addresses of the running key managers, primary first."""
        return [
            EkmEndpoint(
                process.host,
                process.port,
                self.provisioned.rig_tls,
                f"{self.name}-{which}",
                partial(self._how_it_ended, which),
            )
            for which, process in self.running.items()
        ]


@contextmanager
def serve_site(
    site: KeySite, events: EventLog, observer: Observer | None = None
) -> Iterator[EkmProxy]:
    """Start a site's key managers and connect; stop them at the end."""
    with ExitStack() as stack:
        stack.callback(site.stop)
        for which in PAIR:
            site.start(which)
        proxy = stack.enter_context(EkmProxy(site.endpoints(), observer=observer, events=events))
        proxy.connect()
        proxy.watch()
        yield proxy
