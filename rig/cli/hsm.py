"""``rig hsm``: the token that holds the key-encryption keys."""

from __future__ import annotations

from typing import Annotated

import typer

from rig.cli.help import CommandLine
from rig.cli.hsm_validate import hsm_validate
from rig.cli.options import JsonOption, LabOption, lab_of, print_json

hsm_app = CommandLine(help="The token that holds the key-encryption keys.")
hsm_app.command("validate")(hsm_validate)


@hsm_app.command("init")
def hsm_init(lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Make the tokens, PINs, KEKs, certificates and drives that are missing.

    It is safe to repeat.
    """
    from rig.report.console import ConsoleReport
    from rig.testbed.key_managers import provision
    from rig.testbed.state import state_dir

    checked = lab_of(lab)
    report = ConsoleReport(error_stream=as_json)
    with report.task("preparing tokens, keys and certificates"):
        provisioned = provision(checked, state_dir())
    if as_json:
        print_json(
            {
                "state": str(provisioned.state_dir),
                "token": provisioned.ekm_token.label,
                "keks": [kek.label for kek in checked.keks],
                "drives": [drive.serial for drive in provisioned.drives],
            }
        )
        return
    print(f"state   {provisioned.state_dir}")
    pins = provisioned.state_dir / "pins"
    print(f"token   {provisioned.ekm_token.label}, its PIN in {pins}")
    for kek in checked.keks:
        print(f"KEK     {kek.label}")
    for drive in provisioned.drives:
        print(f"drive   {drive.serial}")


@hsm_app.command("list")
def hsm_list(
    lab: LabOption = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", metavar="NAME", help="Token of the lab file; by default the first."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the KEKs of a token: label, size, halves, restrictions."""
    from hsm.keys.keystore import Keystore
    from hsm.pkcs11.token import open_token
    from rig.cli.tables import print_table
    from rig.lab.model import LabError
    from rig.report.text import plural
    from rig.testbed.key_managers import token_config
    from rig.testbed.state import state_dir

    checked = lab_of(lab)
    name = token if token is not None else next(iter(checked.tokens))
    if name not in checked.tokens:
        known = ", ".join(checked.tokens)
        raise LabError(f"There is no token '{name}' in the lab file; known: {known}.")
    with open_token(token_config(checked, name, state_dir())) as opened:
        oaep = opened.oaep_hash.value
        keystore = Keystore(opened)
        keks = keystore.list()
        guarded = {kek.spki_hash for kek in keks if keystore.is_restricted(kek)}
    if as_json:
        print_json(
            {
                "token": checked.tokens[name].label,
                "oaep_hash": oaep,
                "keks": [
                    {
                        "label": kek.label,
                        "bits": kek.bits,
                        "private": kek.has_private,
                        "guarded": kek.spki_hash in guarded,
                        "sha256_of_public_key": kek.spki_hash.hex(),
                        "valid_until": kek.certificate.not_valid_after_utc.isoformat(),
                    }
                    for kek in keks
                ],
            }
        )
        return
    count = plural(len(keks), "KEK")
    print(f"token {checked.tokens[name].label}, RSA-OAEP with {oaep}, {count}")
    rows = [
        {
            "label": kek.label,
            "key": f"RSA {kek.bits}",
            "halves": "private and public" if kek.has_private else "public only",
            "guarded": kek.spki_hash in guarded,
            "sha256_of_public_key": kek.spki_hash.hex(),
        }
        for kek in keks
    ]
    print_table(rows, ("label", "key", "halves", "guarded", "sha256_of_public_key"), "no KEKs")
