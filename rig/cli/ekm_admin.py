"""``rig ekm``: administration of a key manager, with the admin secret."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.help import CommandLine
from rig.cli.options import (
    ConfigOption,
    EkmOption,
    JsonOption,
    LabOption,
    OptionError,
    ekm_of,
    lab_of,
    print_json,
    refuse_lab_options,
)
from rig.cli.tables import print_table

if TYPE_CHECKING:
    from hsm.ekm.admin.administrator import Administrator

drive_app = CommandLine(help="Drives that may ask for keys.")
key_app = CommandLine(help="Key-encryption keys: add, retire, who needs one.")
cartridge_app = CommandLine(help="Cartridges that the key manager knows.")
audit_app = CommandLine(help="The audit log: verify, show, rotate, archive.")

SecretOption = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="File (0600) with the admin secret; else $TAPERIG_EKM_ADMIN or the lab's.",
    ),
]
OfficerOption = Annotated[
    Path | None,
    typer.Option(
        "--so-pin-file",
        metavar="FILE",
        help="File (0600) with the security officer's PIN; else $TAPERIG_SO_PIN or the lab's.",
    ),
]
_NEW_KEY_BITS = 2048
_APART_FROM_DETAILS = {"number", "time", "event", "previous", "hash"}

LabelArgument = Annotated[str, typer.Argument(metavar="LABEL", help="Key label, in any case.")]
SerialArgument = Annotated[str, typer.Argument(metavar="SERIAL", help="Serial number.")]


def _administrator(
    lab: Path | None,
    name: str | None,
    config: Path | None,
    secret_file: Path | None,
    officer: tuple[Path | None] | None = None,
) -> Administrator:
    """Return the administrator of the key manager that the options name.

    ``officer`` is given when the security officer's PIN is needed, with the option's value.
    """
    from hsm.ekm.admin.administrator import Administrator, read_admin_secret, with_so_pin
    from hsm.ekm.config import load_config
    from rig.testbed.key_managers import ekm_config, provision
    from rig.testbed.state import state_dir

    refuse_lab_options(config, lab, name)
    if config is not None:
        configs, default_secret, authority = [load_config(config)], None, None
    else:
        checked = lab_of(lab)
        chosen = ekm_of(checked, name)
        provisioned = provision(checked, state_dir())
        units = [chosen, *(u for u in checked.ekms if u is not chosen and u.token == chosen.token)]
        configs = [ekm_config(unit, provisioned) for unit in units]
        default_secret, authority = provisioned.admin_secret, provisioned.ca.parent
    if officer is not None:
        configs[0] = with_so_pin(configs[0], officer[0])
    return Administrator(configs, read_admin_secret(secret_file, default_secret), authority)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


@drive_app.command("add")
def drive_add(
    serial: SerialArgument,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="Identity certificate of the drive."),
    ] = None,
    wrap_key: Annotated[
        Path | None,
        typer.Option(
            "--wrap-key", metavar="FILE", help="Public RSA wrapping key of the drive, PEM."
        ),
    ] = None,
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
    so_pin_file: OfficerOption = None,
) -> None:
    """Admit a drive: the lab's, or one with its own certificate and key."""
    from hsm.ekm.admin.administrator import AdministrationError, read_wrap_key
    from hsm.keys.pki import load_certificate
    from hsm.pkcs11.oaep import OaepHash
    from hsm.provisioning import provision_drive
    from rig.testbed.state import state_dir

    admin = _administrator(lab, name, config, secret_file, (so_pin_file,))
    if certificate is not None and wrap_key is not None:
        from cryptography.hazmat.primitives.serialization import Encoding

        der = load_certificate(certificate).public_bytes(Encoding.DER)
        answer = admin.add_drive(serial, der, read_wrap_key(wrap_key), OaepHash.SHA1)
    elif certificate is None and wrap_key is None and config is None:
        own = provision_drive(state_dir(), serial)
        answer = admin.add_drive(serial, own.certificate_der, own.wrap_public_der, own.oaep_hash)
    else:
        raise AdministrationError("A drive comes with both --certificate and --wrap-key.")
    revoked = ", still revoked: `rig ekm drive revoke --undo`" if answer["revoked"] else ""
    print(f"drive   {serial} admitted{revoked}")


@drive_app.command("list")
def drive_list(
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the drive table."""
    drives = _administrator(lab, name, config, secret_file).ask("drive list")
    if as_json:
        print_json(drives)
        return
    for drive in drives:
        drive["state"] = "revoked" if drive["revoked"] else "admitted"
    print_table(drives, ("serial", "state", "certificate_sha256"), "the drive table is empty")


@drive_app.command("revoke")
def drive_revoke(
    serial: SerialArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Admit it again.")] = False,
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
) -> None:
    """Revoke a drive: it gets no keys from its next request on."""
    admin = _administrator(lab, name, config, secret_file)
    admin.ask("drive revoke", serial=serial, revoked=not undo)
    print(f"drive   {serial} {'admitted again' if undo else 'revoked'}")


@key_app.command("add")
def key_add(
    label: LabelArgument,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits", metavar="BITS", min=2048, max=4096, help="Size of a new RSA key, else 2048."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="Import this certificate; without a private key it is public-only.",
        ),
    ] = None,
    private_key: Annotated[
        Path | None,
        typer.Option("--private-key", metavar="FILE", help="Private key of that certificate, PEM."),
    ] = None,
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
    so_pin_file: OfficerOption = None,
) -> None:
    """Make a key-encryption key in the token, or import one."""
    if bits is not None and certificate is not None:
        raise OptionError("--bits is for a new key; leave it out with --certificate.")
    admin = _administrator(lab, name, config, secret_file, (so_pin_file,))
    kek = admin.add_key(label, bits or _NEW_KEY_BITS, certificate, private_key)
    half = "private and public" if kek.has_private else "public only"
    print(f"KEK     {kek.label}, RSA {kek.bits}, {half}, {kek.spki_hash.hex()}")


@key_app.command("users")
def key_users(
    label: LabelArgument,
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the cartridges that need a key."""
    users = _administrator(lab, name, config, secret_file).users(label)
    if as_json:
        print_json(users)
        return
    for user in users:
        user["last"] = _time(user["last"])
    columns = ("volume", "cartridge_id", "last", "keys")
    print_table(users, columns, f"no cartridge needs {label}")


@key_app.command("retire")
def key_retire(
    label: LabelArgument,
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
) -> None:
    """Remove a key from the token for good, if no cartridge needs it."""
    retired = _administrator(lab, name, config, secret_file).retire(label)
    print(f"KEK     {retired.label} removed, {retired.spki_hash.hex()}")


@cartridge_app.command("forget")
def cartridge_forget(
    volume: Annotated[str, typer.Argument(metavar="VOLSER", help="VOLSER of the cartridge.")],
    cartridge_id: Annotated[
        str,
        typer.Option(
            "--id",
            metavar="ID",
            help="Cartridge id, as `key users` shows it; needed when the VOLSER is not unique.",
        ),
    ] = "",
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
) -> None:
    """Forget a cartridge that was scrapped or overwritten in the clear."""
    admin = _administrator(lab, name, config, secret_file)
    (forgotten,), *_ = admin.ask_all("cartridge forget", cartridges=[(volume, cartridge_id)])
    print(f"cartridge {volume} id {forgotten['cartridge_id'] or 'none'} forgotten")


@audit_app.command("verify")
def audit_verify(
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive", metavar="DIR", help="Folder of archived segments, to verify them too."
        ),
    ] = None,
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the audit log's hash chain; print its head, to keep elsewhere."""
    where = {} if archive is None else {"archive": str(archive.absolute())}
    log = _administrator(lab, name, config, secret_file).ask("audit verify", **where)
    if as_json:
        print_json(log)
        return
    files = f" in {log['files']} files" if log["files"] > 1 else ""
    print(f"log     {log['path']}\nrecords {log['records']}{files}\nhead    {log['head']}")
    if log["first"] > 1:
        print(f"from    record {log['first']} on; the one before had the hash {log['anchor']}")
        if not log["archived"]:
            print("missing the records before; the log does not say that they were archived")


@audit_app.command("rotate")
def audit_rotate(
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
) -> None:
    """Close the audit log's file as a segment and begin a new one."""
    closed = _administrator(lab, name, config, secret_file).ask("audit rotate")
    print(f"closed  {closed['segment']}")


@audit_app.command("archive")
def audit_archive(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that the segments are moved to.")
    ],
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
) -> None:
    """Move the closed segments to a folder; key usage stays known."""
    admin = _administrator(lab, name, config, secret_file)
    moved = admin.ask("audit archive", directory=str(directory.absolute()))
    for segment in moved["segments"]:
        print(f"moved   {segment}")
    print(f"through record {moved['through']}, to {moved['directory']}")


@audit_app.command("show")
def audit_show(
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=1, max=10_000, help="Show at most N records.")
    ] = 20,
    event: Annotated[
        str,
        typer.Option(
            "--event", metavar="EVENT", help="Only this event, such as key-reply or refusal."
        ),
    ] = "",
    serial: Annotated[
        str, typer.Option("--drive", metavar="SERIAL", help="Only records of this drive.")
    ] = "",
    volume: Annotated[
        str, typer.Option("--volume", metavar="VOLSER", help="Only records of this cartridge.")
    ] = "",
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
    secret_file: SecretOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last records of the audit log."""
    admin = _administrator(lab, name, config, secret_file)
    records = admin.ask("audit show", last=last, event=event, serial=serial, volume=volume)
    if as_json:
        print_json(records)
        return
    rows = [
        {
            **record,
            "time": _time(record["time"]),
            "details": {k: v for k, v in record.items() if k not in _APART_FROM_DETAILS and v},
        }
        for record in records
    ]
    filters = {"event": event, "drive": serial, "volume": volume}
    given = ", ".join(f"{name} {value!r}" for name, value in filters.items() if value)
    empty = f"no record has {given}" if given else "the audit log has no record"
    print_table(rows, ("number", "time", "event", "details"), empty)
