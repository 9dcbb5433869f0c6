"""Measure a key exchange's cost against the token's bare C_UnwrapKey.

Simulated drives with real certificates, a process and a connection each, ask one key after the
other of a key manager that is started as `rig ekm serve` starts it. Keys, certificates and EEDKs
are made before; a drive's signatures are not, since each covers the key manager's fresh nonce.
Every volume's key is asked for once before the clock starts, which saves the key manager the
verification of its EEDK's signature and a look at the key from then on, and is compared with the
one that the EEDK holds after the clock has stopped.

Drives and key manager share the machine, so the figure that counts is exchanges per CPU second of
the key manager's own processes (front and workers, user and system) against C_UnwrapKey per CPU
second of one process that does nothing else, both in turns within one run. The bare unwraps run in
as many processes as there are workers; the keys that they yield are destroyed off the clock. The
workers have a core each, which the bare unwraps use too, and the drives the other cores: in a lab
they are other machines. `--together` lets all of them run on any core.

That rate flatters the exchange in one way, since python-pkcs11 has its part in it, and wrongs it in
another: alone on the machine, an unwrap costs less than beside others that use the same caches. So
there is an even one too: C_UnwrapKey and nothing around it, while drives and key manager go on as
they do under load.

    exchanges_per_s         all drives together, wall clock
    p50_ms p99_ms p999_ms   from Hello to a verified KeyReply, as a drive sees it
    exchanges_per_cpu_s     per CPU second of the key manager
    bare_unwrap_per_cpu_s   per CPU second of the bare loop
    ratio                   of the two, median over the turns
    even_unwrap_per_cpu_s   per CPU second of the bare loop under even conditions
    even_ratio              of exchanges to that

Run as `python tests/bench/ekm_load.py [--drives N] [--workers N] [--seconds S] [--turns N]
[--operation translate|generate] [--volumes N] [--kek-bits N] [--together] [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for tests.support.ekm_lab

from pkcs11 import KeyType, Mechanism, ObjectClass

from hsm.ekm.client import EkmClient, EkmEndpoint
from hsm.ekm.config import EkmConfig, lab_config
from hsm.ekm.drive_table import DriveTable
from hsm.ekm.protocol.drive_side import DriveSession, Generate, Translate
from hsm.ekm.protocol.messages import KeyGrant
from hsm.ekm.service.launch import spawn_ekm
from hsm.keys.eedk import KeyLabel
from hsm.keys.keystore import Keystore
from hsm.keys.pki import load_certificate
from hsm.pkcs11.fast_path import FastPath, pack_aes_key_template
from hsm.pkcs11.templates import DATA_KEY, OAEP
from hsm.pkcs11.token import TokenConfig, open_token
from hsm.provisioning import ProvisionedLab
from tests.support.ekm_lab import (
    CARTRIDGE_ID,
    DR_KEY,
    MAIN_KEY,
    SoftDrive,
    authority,
    der,
    make_lab,
)

_LABELS = (KeyLabel(MAIN_KEY), KeyLabel(DR_KEY))
_BARE_BATCH = 50
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turn:
    """One turn: the load, and the bare unwraps after it."""

    exchanges: int
    seconds: float
    cpu_seconds: float
    latencies: list[float]
    bare_per_cpu_s: float
    even_per_cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        return self.exchanges / self.cpu_seconds

    @property
    def ratio(self) -> float:
        return self.per_cpu_s / self.bare_per_cpu_s

    @property
    def even_ratio(self) -> float:
        return self.per_cpu_s / self.even_per_cpu_s


def exchange(client: EkmClient, session: DriveSession) -> KeyGrant:
    """Run one exchange, its Ack included, which gets no answer."""
    request = session.on_message(client.request(session.hello()))
    if request is None:
        return session.grant  # raises why there is none
    ack = session.on_message(client.request(request))
    grant = session.grant
    assert ack is not None
    client.send(ack)
    return grant


def volume_name(drive: int, number: int) -> str:
    return f"{drive:02d}{number:04d}"


def drive_process(
    link: Connection,
    drive: SoftDrive,
    number: int,
    endpoint: EkmEndpoint,
    trust: bytes,
    operation: str,
    volumes: int,
    cores: set[int],
) -> None:
    """Make EEDKs; then ask for keys for the seconds given, and report."""
    os.sched_setaffinity(0, cores)
    with EkmClient(endpoint) as client:

        def session(request: Generate | Translate) -> DriveSession:
            return DriveSession(drive, trust, drive.serial, request)

        names = [volume_name(number, each) for each in range(volumes)]
        grants = {
            name: exchange(client, session(Generate(name, CARTRIDGE_ID, _LABELS))) for name in names
        }
        for name in names if operation == "translate" else ():
            exchange(client, session(Translate(name, CARTRIDGE_ID, grants[name].eedks)))
        client.ping()
        link.send("ready")
        while (seconds := link.recv()) is not None:
            latencies: list[float] = []
            last: dict[str, KeyGrant] = {}
            until = time.monotonic() + seconds
            began = time.monotonic()
            while began < until:
                name = names[len(latencies) % volumes]
                asked: Generate | Translate = (
                    Translate(name, CARTRIDGE_ID, grants[name].eedks)
                    if operation == "translate"
                    else Generate(name, CARTRIDGE_ID, _LABELS)
                )
                last[name] = exchange(client, session(asked))
                now = time.monotonic()
                latencies.append(now - began)
                began = now
            client.ping()
            link.send(latencies)
            if operation == "translate":
                for name, grant in last.items():
                    assert drive.data_key(grant.sedk) == drive.data_key(grants[name].sedk), name
            link.send("checked")


def bare_process(link: Connection, config: TokenConfig, cores: set[int]) -> None:
    """Unwrap for the seconds given; answer with the rate per CPU second."""
    os.sched_setaffinity(0, cores)
    with open_token(config) as token:
        keystore = Keystore(token)
        kek = keystore.find(MAIN_KEY)
        public = keystore.public_key(kek)
        private: Any = keystore.private_key(kek)
        calls = FastPath.bind(config.module, token.session)
        assert calls is not None
        template = pack_aes_key_template(DATA_KEY)
        with token.generate_data_key() as data_key:
            wrapped = token.wrap_data_key(data_key, public)

        def unwrap() -> Callable[[], object]:
            key = private.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=Mechanism.RSA_PKCS_OAEP,
                mechanism_param=OAEP[token.oaep_hash],
                template=DATA_KEY,
            )
            destroy: Callable[[], object] = key.destroy
            return destroy

        def unwrap_directly() -> Callable[[], object]:
            key = calls.unwrap(private.handle, wrapped, token.oaep_hash, template)
            assert key is not None
            return lambda: calls.destroy(key)

        link.send("ready")
        while (order := link.recv()) is not None:
            seconds, directly = order
            until = time.monotonic() + seconds
            spent, count = 0.0, 0
            while time.monotonic() < until:
                began = time.process_time()
                if directly:
                    undo = [unwrap_directly() for _ in range(_BARE_BATCH)]
                else:
                    undo = [unwrap() for _ in range(_BARE_BATCH)]
                spent += time.process_time() - began
                count += len(undo)
                for destroy in undo:
                    destroy()
            link.send((count, spent))


def bare_rate(bare: Crowd, seconds: float, *, directly: bool) -> float:
    """Return unwraps per CPU second of all bare processes together."""
    bare.tell((seconds, directly))
    counts = bare.hear()
    return float(sum(count for count, _ in counts) / sum(used for _, used in counts))


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of processes so far."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [pid, *children]


class Crowd:
    """Processes that run the same load on request."""

    def __init__(self, context: Any, target: Any, arguments: Sequence[tuple[Any, ...]]) -> None:
        self.links: list[Connection] = []
        self._processes = []
        for each in arguments:
            near, far = context.Pipe()
            process = context.Process(target=target, args=(far, *each), daemon=True)
            process.start()
            far.close()
            self.links.append(near)
            self._processes.append(process)
        self.hear()

    def hear(self) -> list[Any]:
        return [link.recv() for link in self.links]

    def tell(self, word: object) -> None:
        for link in self.links:
            link.send(word)

    def end(self) -> None:
        self.tell(None)
        for process in self._processes:
            process.join()


def make_drives(lab: ProvisionedLab, config: EkmConfig, count: int) -> list[SoftDrive]:
    """Make drives with certificates, and have token and drive table know them."""
    issuer = authority(lab)
    drives = [SoftDrive.issued_by(issuer, f"LOAD{number:06d}") for number in range(count)]
    with open_token(lab.ekm_token) as token, DriveTable(config.drive_table) as table:
        for drive in drives:
            Keystore(token).enroll_drive_key(drive.serial, drive.wrap_spki)
            table.enrol(drive.serial, drive.certificate_der, drive.wrap_spki, drive.oaep_hash)
    return drives


def cores(options: argparse.Namespace) -> tuple[set[int], set[int]]:
    """Return the cores of the key manager's workers, and those of the drives."""
    here = sorted(os.sched_getaffinity(0))
    if options.together or len(here) <= options.workers:
        return set(here), set(here)
    return set(here[: options.workers]), set(here[options.workers :])


def measure(folder: Path, options: argparse.Namespace) -> list[Turn]:
    """Run all turns."""
    of_workers, of_drives = cores(options)
    lab = make_lab(folder / "state", options.kek_bits)
    config = lab_config(lab, port=0).replace(workers=options.workers)
    drives = make_drives(lab, config, options.drives)
    context = mp.get_context("fork")
    trust = der(load_certificate(lab.ca))
    bare = Crowd(context, bare_process, [(lab.ekm_token, of_workers)] * options.workers)
    turns = []
    with spawn_ekm(config) as ekm:
        pids = family(ekm.pid)
        for pid in pids:
            os.sched_setaffinity(pid, of_workers)
        endpoint = EkmEndpoint(ekm.host, ekm.port, lab.rig_tls)
        crowd = Crowd(
            context,
            drive_process,
            [
                (drive, number, endpoint, trust, options.operation, options.volumes, of_drives)
                for number, drive in enumerate(drives)
            ],
        )
        for _ in range(options.turns):
            before, began = cpu_seconds(pids), time.monotonic()
            crowd.tell(options.seconds)
            latencies = [latency for each in crowd.hear() for latency in each]
            seconds = time.monotonic() - began
            spent = cpu_seconds(pids) - before
            assert set(crowd.hear()) == {"checked"}
            alone = bare_rate(bare, options.seconds / 2, directly=False)
            crowd.tell(options.seconds / 2 + 1)
            even = bare_rate(bare, options.seconds / 2, directly=True)
            crowd.hear()
            assert set(crowd.hear()) == {"checked"}
            turns.append(Turn(len(latencies), seconds, spent, latencies, alone, even))
            report_turn(turns[-1])
        crowd.end()
        bare.end()
    return turns


def report_turn(turn: Turn) -> None:
    print(
        f"{turn.exchanges / turn.seconds:8.1f} exchanges/s  {turn.per_cpu_s:8.1f} per CPU s  "
        f"bare {turn.bare_per_cpu_s:8.1f} per CPU s  ratio {turn.ratio:.3f}  "
        f"even {turn.even_per_cpu_s:8.1f}  ratio {turn.even_ratio:.3f}",
        flush=True,
    )


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def figures(turns: Sequence[Turn]) -> dict[str, float]:
    """Return the figures of all turns, by the names above."""
    latencies = [latency for turn in turns for latency in turn.latencies]
    return {
        "exchanges_per_s": sum(t.exchanges for t in turns) / sum(t.seconds for t in turns),
        "p50_ms": quantile(latencies, 0.5) * 1e3,
        "p99_ms": quantile(latencies, 0.99) * 1e3,
        "p999_ms": quantile(latencies, 0.999) * 1e3,
        "exchanges_per_cpu_s": median(turn.per_cpu_s for turn in turns),
        "bare_unwrap_per_cpu_s": median(turn.bare_per_cpu_s for turn in turns),
        "ratio": median(turn.ratio for turn in turns),
        "even_unwrap_per_cpu_s": median(turn.even_per_cpu_s for turn in turns),
        "even_ratio": median(turn.even_ratio for turn in turns),
        "exchanges": float(sum(turn.exchanges for turn in turns)),
    }


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load on a key manager.")
    parser.add_argument("--drives", type=positive, default=32)
    parser.add_argument("--workers", type=positive, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="of load in each turn")
    parser.add_argument("--turns", type=positive, default=3)
    parser.add_argument("--volumes", type=positive, default=50, help="of each drive")
    parser.add_argument("--operation", choices=("translate", "generate"), default="translate")
    parser.add_argument("--kek-bits", type=int, default=2048, choices=(2048, 3072, 4096))
    parser.add_argument("--together", action="store_true", help="do not set cores apart")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="ekm-load-") as folder:
        results = figures(measure(Path(folder), options))
    for name, value in results.items():
        print(f"{name:<22} {value:10.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
