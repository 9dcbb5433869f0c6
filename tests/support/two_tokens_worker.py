"""Run key managers of one node on two tokens; print the results as JSON.

What one wrote, the other reads.

Run as ``python -m tests.support.two_tokens_worker LAB STATE`` where both tokens are.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from hsm.ekm.protocol.drive_side import DriveRequest, DriveSession, Generate, Translate
from hsm.ekm.service.launch import spawn_ekm
from hsm.keys.eedk import KeyLabel, KeyMode
from hsm.keys.pki import load_certificate
from rig.drive.secure_element import SecureElement, SecureElementConfig
from rig.lab.load import load_lab
from rig.testbed.key_managers import ekm_config, endpoint, provision
from rig.ve.ekm.proxy import EkmProxy
from tests.support.ekm_lab import CARTRIDGE_ID, der


def main(lab_path: str, state: str) -> None:
    lab = load_lab(Path(lab_path))
    provisioned = provision(lab, Path(state))
    provision(lab, Path(state))  # and again: nothing changes
    serial = lab.drives[0].serial
    labels = tuple(KeyLabel(key.label, KeyMode(key.mode)) for key in lab.pools[2].keys)
    trust = der(load_certificate(provisioned.ca))
    blobs: dict[str, list[str]] = {}
    with ExitStack() as stack:
        element = stack.enter_context(
            SecureElement.start(SecureElementConfig.of(provisioned.drive(serial)))
        )

        def exchange(proxy: EkmProxy, request: DriveRequest) -> tuple[str, tuple[bytes, ...]]:
            session = DriveSession(element, trust, serial, request)
            proxy.exchange(session)
            return element.rewrap_for_engine(session.grant.sedk).hex(), session.grant.eedks

        for writer, reader in ((0, 1), (1, 0)):
            eedks: tuple[bytes, ...] = ()
            volume = f"VOL00{writer}"
            for which in (writer, reader):
                unit = lab.ekms[which]
                with (
                    spawn_ekm(ekm_config(unit, provisioned)) as process,
                    EkmProxy([endpoint(unit, provisioned, process)]) as proxy,
                ):
                    request: DriveRequest = (
                        Translate(volume, CARTRIDGE_ID, eedks)
                        if eedks
                        else Generate(volume, CARTRIDGE_ID, labels)
                    )
                    blob, new = exchange(proxy, request)
                    eedks = eedks or new
                    blobs.setdefault(volume, []).append(blob)
    print(json.dumps({"blobs": blobs, "others": list(provisioned.tokens)[1:]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
