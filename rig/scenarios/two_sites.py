"""Cartridges at two sites: main and disaster recovery (DR), a lost KEK.

Each site has a token and a pair of key managers of its own, and of the other nothing but
certificates. The labels are the source's (KEY-7): main has "June 2007 Key" and "June 2007 DR Site
Key"; the DR site calls the same two "June 2007 Main Site Key" and "June 2007 Key".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hsm.ekm.protocol import messages
from hsm.ekm.protocol.errors import ErrorCode, ExchangeError
from hsm.ekm.protocol.messages import KeyRequest
from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.provisioning import remove_keks
from rig.drive.drive import Drive
from rig.results.events import NoticeKind
from rig.scenarios.base import Scenario, ScenarioContext
from rig.scenarios.host import Host, number_volumes
from rig.scenarios.host_files import capped
from rig.testbed.site import PAIR, KeySite, serve_site
from rig.ve.catalogue.model import PoolSettings
from rig.ve.ekm.proxy import EkmProxy, Observer
from rig.ve.ekm.verify_connection import verify_connection
from rig.ve.volumes.logical_volume import VolumeFile

KEY = "June 2007 Key"
DR_KEY_AT_MAIN = "June 2007 DR Site Key"
MAIN_KEY_AT_DR = "June 2007 Main Site Key"
LOST_KEY = "May 2007 Key"
REBUILT = "two_sites rebuilt"
"""The node at the DR site whose catalogue is made of the cartridges."""
DATA_BYTES = 400_000
"""Each tape gets no more than this: what is judged here is keys, not rates."""

POOLS = {
    1: (KeyLabel(KEY), KeyLabel(DR_KEY_AT_MAIN)),
    2: (KeyLabel(KEY, KeyMode.HASH), KeyLabel(DR_KEY_AT_MAIN, KeyMode.HASH)),
    3: (KeyLabel(LOST_KEY),),
    4: (KeyLabel(LOST_KEY, KeyMode.HASH),),
}


class TwoSites(Scenario):
    """Clear and hash mode at the other site; a KM lost; a KEK lost."""

    name = "two_sites"
    title = "Two sites: a tape of the main site at the DR site, a key manager lost, a KEK lost"

    def run(self, context: ScenarioContext) -> None:
        """Write at main, read and append at DR, lose a KEK at main."""
        provisioned = context.session.provisioned
        drive = provisioned.drive(context.session.drive.unit.serial)
        folder = provisioned.state_dir / "sites"
        with context.report.task("preparing both sites"):
            main = KeySite("main", folder / "main", (KEY, LOST_KEY), drive, provisioned.ca)
            dr = KeySite("dr", folder / "dr", (KEY,), drive, provisioned.ca)
            main.import_certificates(dr, {DR_KEY_AT_MAIN: KEY})
            dr.import_certificates(main, {MAIN_KEY_AT_DR: KEY})
        _Cartridges(context, main, dr).run()


class _KeyManagerKiller:
    """An observer that kills a site's primary key manager in an exchange.

    It does so once, after it was armed.
    """

    def __init__(self, site: KeySite) -> None:
        self._site = site
        self.armed = False

    def __call__(self, direction: str, data: bytes) -> None:
        if self.armed and isinstance(messages.decode(data), KeyRequest):
            self.armed = False
            os.kill(self._site.running["primary"].pid, signal.SIGKILL)
            self._site.running["primary"].stop()


@dataclass
class _AtSite:
    """The node with its drive at a site, with that site's key managers."""

    context: ScenarioContext
    site: KeySite
    proxy: EkmProxy
    host: Host

    def reads(self, volumes: Sequence[VolumeFile]) -> bool:
        """Recall volumes from tape and compare them."""
        self.host.empty_cache()
        self.host.recall(volumes)
        return not self.host.differing(volumes)

    def refusal(self, volumes: Sequence[VolumeFile]) -> ExchangeError | None:
        """Recall what cannot be read; return the refusal, None if it came."""
        with self.context.session.events.expecting_failure():
            try:
                self.host.empty_cache()
                self.host.recall(volumes)
            except ExchangeError as refusal:
                self.context.report.line(f"refused: {refusal}")
                return refusal
        return None


@dataclass
class _Cartridges:
    """A cartridge for each pool, and what happens to it at both sites."""

    context: ScenarioContext
    main: KeySite
    dr: KeySite

    def run(self) -> None:
        """Run everything, in order."""
        files = capped(self.context.files, DATA_BYTES)
        if len(files) < 2:
            raise TaperigError(
                f"The scenario two_sites needs two files that have {DATA_BYTES:,} bytes together "
                "at most; name such with --data."
            )
        written = {pool: number_volumes(files[:-1], pool) for pool in POOLS}
        appended = number_volumes(files[-1:], 2, len(files))
        with self._at(self.main) as main:
            self._check_labels(main, KEY, DR_KEY_AT_MAIN)
            for pool in POOLS:
                main.host.write(written[pool], pool)
                main.host.work()
            tapes = {pool: main.host.cartridge_of(written[pool][0]) for pool in POOLS}
        killer = _KeyManagerKiller(self.dr)
        with self._at(self.dr, killer) as dr:
            self._check_labels(dr, KEY, MAIN_KEY_AT_DR)
            self._check_at_dr(dr, tapes, written)
            self._check_key_manager_loss(dr, killer, written[2])
            dr.host.write(appended, 2)
            dr.host.work()
            travelled = dr.host.node.parts.cartridges.folder
        with self._at(self.dr, name=REBUILT, cartridges=0) as dr:
            self._check_rebuild(dr, travelled, tapes, [*written[2], *appended])
        kek_hash = remove_keks(self.main.provisioned, [LOST_KEY])[LOST_KEY]
        with self._at(self.main) as main:
            self._check_back_at_main(main, tapes, written, appended)
            self._check_kek_loss(main, tapes, written, kek_hash)

    @contextmanager
    def _at(
        self,
        site: KeySite,
        observer: Observer | None = None,
        *,
        name: str = TwoSites.name,
        cartridges: int = len(POOLS),
    ) -> Iterator[_AtSite]:
        """Open a node at a site; its drive trusts this site's authority."""
        here = self.context.session
        opened, unit = here.drive, here.drive.unit
        drive = Drive(
            opened.engine, opened.element, unit.serial, unit.model, ekm_ca_der=site.ca_der
        )
        pools = [PoolSettings(number, True, keys) for number, keys in POOLS.items()]
        self.context.report.line(f"at site {site.name}")
        with (
            serve_site(site, here.events, observer) as proxy,
            self.context.nodes.open(
                name,
                replace(
                    here,
                    provisioned=site.provisioned,
                    drives=(replace(opened, drive=drive),),
                    proxy=proxy,
                    administered=lambda: [site.ekm_config(which) for which in PAIR],
                    external=(),
                ),
                pools,
                cache_bytes=len(POOLS) * DATA_BYTES,
                cartridge_bytes=DATA_BYTES,
                cartridges=cartridges,
            ) as node,
        ):
            yield _AtSite(self.context, site, proxy, Host(node))

    def _check_labels(self, at: _AtSite, own: str, other: str) -> None:
        """Check that the site knows both keys, and has the private half of one."""
        verified = verify_connection(at.proxy.connections, (own, other))
        private = [[state.has_private for state in ekm.states] for ekm in verified.ekms]
        self.context.check(
            f"{at.site.name}: both key managers know both keys, {other!r} by certificate alone",
            verified.good and private == [[True, False]] * 2,
            rules=("KEY-4", "EKM-11"),
        )

    def _check_at_dr(
        self, dr: _AtSite, tapes: Mapping[int, str], written: Mapping[int, Sequence[VolumeFile]]
    ) -> None:
        clear, hashed = tapes[1], tapes[2]
        refusal = dr.refusal(written[1])
        named = refusal is not None and DR_KEY_AT_MAIN in str(refusal) and KEY in str(refusal)
        self.context.check(
            "the tape in clear mode is refused at the DR site, and the error names the labels",
            refusal is not None
            and refusal.code in (ErrorCode.KEK_ABSENT, ErrorCode.WRONG_KEK)
            and named,
            f"{clear}, {_code(refusal)}",
            rules=("KEY-7",),
        )
        self.context.check(
            "the tape in hash mode reads at the DR site with its own private half",
            dr.reads(written[2]),
            f"{hashed}, {len(written[2])} logical volumes",
            rules=("KEY-4", "KEY-7", "READ-2d"),
        )

    def _check_key_manager_loss(
        self, dr: _AtSite, killer: _KeyManagerKiller, hashed: Sequence[VolumeFile]
    ) -> None:
        notices = self.context.session.events.notices
        before = len(notices)
        killer.armed = True
        self.context.check(
            "dr: the primary is killed in the middle of an exchange, and the tape reads",
            dr.reads(hashed) and not killer.armed,
            "repeated whole on the secondary",
            rules=("EKM-6",),
        )
        self._check_notices("loss", before, (NoticeKind.INTERVENTION, NoticeKind.HOSTS))
        before = len(notices)
        dr.site.start("primary")
        reads = dr.reads(hashed)
        self.context.check(
            "dr: the first exchange after its return is the primary's",
            reads and bool(dr.proxy.connections.all[0].up),
            rules=("EKM-6",),
        )
        self._check_notices("return", before, (NoticeKind.CLEARED, NoticeKind.HOSTS))

    def _check_notices(self, what: str, before: int, kinds: tuple[NoticeKind, ...]) -> None:
        notices = self.context.session.events.notices[before:]
        sent = [notice.kind for notice in notices]
        self.context.check(
            f"dr: its {what} was reported to the operator and to the hosts",
            [kind for kind in sent if kind in kinds] == list(kinds),
            ", ".join(sent),
            rules=("EKM-7",),
        )

    def _check_rebuild(
        self,
        dr: _AtSite,
        folder: Path,
        tapes: Mapping[int, str],
        hashed: Sequence[VolumeFile],
    ) -> None:
        """Make a catalogue at the DR site.

        Only cartridges and certificates travelled.
        """
        with self.context.session.events.expecting_failure():
            report = dr.host.node.rebuild(folder)
        self.context.check(
            "a catalogue made of the cartridges at the DR site has all of the tape in hash mode",
            sorted(report.volumes) == sorted(volume.name for volume in hashed)
            and not dr.host.differing(hashed),
            f"{tapes[2]}, {len(hashed)} logical volumes",
            rules=("DR-2", "DR-4"),
        )
        unread = [tapes[pool] for pool in (1, 3, 4)]
        named = [volser for volser in unread if any(volser in each for each in report.findings)]
        self.context.check(
            "it names the tapes whose keys the DR site has not",
            named == unread and len(report.findings) == len(unread),
            ", ".join(named),
            rules=("DR-4", "COPY-4"),
        )

    def _check_back_at_main(
        self,
        main: _AtSite,
        tapes: Mapping[int, str],
        written: Mapping[int, Sequence[VolumeFile]],
        appended: Sequence[VolumeFile],
    ) -> None:
        clear, hashed = tapes[1], tapes[2]
        self.context.check(
            "the tape that was appended to at the DR site reads at main whole",
            main.reads([*written[2], *appended]),
            f"{hashed}, {len(written[2])} and {len(appended)} logical volumes",
            rules=("KEY-4", "APP-2e"),
        )
        self.context.check(
            "the tape in clear mode reads at main as before",
            main.reads(written[1]),
            clear,
            rules=("KEY-6",),
        )

    def _check_kek_loss(
        self,
        main: _AtSite,
        tapes: Mapping[int, str],
        written: Mapping[int, Sequence[VolumeFile]],
        kek_hash: str,
    ) -> None:
        """Check the errors of both modes once the KEK is not in the keystore."""
        refusals = {pool: main.refusal(written[pool]) for pool in (3, 4)}
        for pool, mode in ((3, "clear"), (4, "hash")):
            refusal, volser = refusals[pool], tapes[pool]
            says = "" if refusal is None else str(refusal)
            right = (
                LOST_KEY in says if mode == "clear" else LOST_KEY not in says and kek_hash in says
            )
            self.context.check(
                f"{mode} mode: with its KEK gone the error "
                + ("names it" if mode == "clear" else "has its hash and cannot name it"),
                refusal is not None and refusal.code is ErrorCode.KEK_ABSENT and right,
                f"{volser}, {_code(refusal)}",
                rules=("KEY-8",),
            )


def _code(refusal: ExchangeError | None) -> str:
    return "not refused" if refusal is None else refusal.code.name
