"""``rig hsm validate``: test, attack and grade a PKCS#11 token."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.options import JsonOption, OptionError

if TYPE_CHECKING:
    from hsm.pkcs11.pins import PinSource
    from hsm.validate.session import Pins


class ValidateOptionError(OptionError):
    """Options of ``rig hsm validate`` conflict or are missing."""


def hsm_validate(
    module: Annotated[
        str,
        typer.Option(
            "--module",
            metavar="LIB",
            help="PKCS#11 library, or 'softhsm' for a token that the rig made.",
        ),
    ],
    token: Annotated[str, typer.Option("--token", metavar="LABEL", help="Label of the token.")],
    pin_env: Annotated[
        str | None, typer.Option("--pin-env", metavar="NAME", help="Variable with the user's PIN.")
    ] = None,
    pin_file: Annotated[
        Path | None, typer.Option("--pin-file", metavar="FILE", help="File with the user's PIN.")
    ] = None,
    so_pin_env: Annotated[
        str | None,
        typer.Option(
            "--so-pin-env",
            metavar="NAME",
            help="Variable with the security officer's PIN; without it TRUSTED is not tried.",
        ),
    ] = None,
    so_pin_file: Annotated[
        Path | None,
        typer.Option("--so-pin-file", metavar="FILE", help="File with the officer's PIN."),
    ] = None,
    away_with: Annotated[
        str | None,
        typer.Option(
            "--away-with",
            metavar="COMMAND",
            help="Shell command that takes the token away (a switch, a port, a cable).",
        ),
    ] = None,
    back_with: Annotated[
        str | None,
        typer.Option(
            "--back-with", metavar="COMMAND", help="Shell command that brings the token back."
        ),
    ] = None,
    area: Annotated[
        list[str] | None,
        typer.Option(
            "--area", metavar="AREA", help="Try only the probes of this area; may be repeated."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write the report as an HTML page."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test, attack and grade a PKCS#11 token.

    Makes objects of its own, tagged, and removes them; touches no other. Asks for the PIN when
    no option says where it is. Exits 0 when the token is fit, also with limits, and 1 when not.
    """
    from hsm.errors import TokenAbsentError
    from hsm.pkcs11.softhsm import find_module, token_config
    from hsm.validate.run import validate
    from hsm.validate.verdict import Fitness
    from rig.report.hsm_console import ValidationReport
    from rig.report.hsm_page import write_page
    from rig.testbed.state import state_dir

    pin, so_pin = (
        _pin_source(pin_env, pin_file, "pin"),
        _pin_source(so_pin_env, so_pin_file, "so-pin"),
    )
    path, softhsm_conf = Path(module), None
    if module == "softhsm":
        own = token_config(state_dir(), token)
        if pin is None and own.pin is not None and own.pin.file and not own.pin.file.exists():
            raise TokenAbsentError(
                f"The rig made no token '{token}' in {state_dir()}; make the lab's tokens with: "
                "rig hsm init"
            )
        path, softhsm_conf = find_module(), own.softhsm_conf
        pin, so_pin = pin or own.pin, so_pin or own.so_pin
    report = ValidationReport(error_stream=as_json)
    validation = validate(
        path,
        token,
        _read_pins(pin, so_pin, token),
        softhsm_conf=softhsm_conf,
        removal=_removal(away_with, back_with),
        probes=_probes(area or []),
        progress=report.finding,
    )
    if as_json:
        print(validation.to_json())
    report.verdict(validation)
    if html is not None:
        write_page(validation, html)
    raise typer.Exit(1 if validation.verdict.fitness is Fitness.UNFIT else 0)


def _pin_source(env: str | None, file: Path | None, option: str) -> PinSource | None:
    from hsm.pkcs11.pins import PinSource

    if env is not None and file is not None:
        raise ValidateOptionError(f"Give either --{option}-env or --{option}-file, not both.")
    if env is not None:
        return PinSource(env=env)
    return None if file is None else PinSource(file=file)


def _removal(away: str | None, back: str | None) -> tuple[str, str] | None:
    if (away is None) != (back is None):
        raise ValidateOptionError("Give both --away-with and --back-with, or neither.")
    return None if away is None or back is None else (away, back)


def _read_pins(pin: PinSource | None, so_pin: PinSource | None, token: str) -> Pins:
    from hsm.validate.session import Pins

    if pin is not None:
        user = pin.read()
    elif sys.stdin.isatty():
        user = _ask_pin(token)
    else:
        raise ValidateOptionError(
            "The token's PIN is needed; name a variable with --pin-env or a file with --pin-file."
        )
    return Pins(user, None if so_pin is None else so_pin.read())


def _ask_pin(token: str) -> str:
    """Ask for a PIN on the terminal, where it is not shown."""
    from getpass import getpass

    try:
        pin = getpass(f"PIN of {token}: ")
    except EOFError:
        pin = ""
    if not pin:
        raise ValidateOptionError("No PIN was given; nothing was tried at the token.")
    return pin


def _probes(areas: list[str]) -> list[str]:
    from hsm.validate.probes import AREAS, PROBES

    for area in areas:
        if area not in AREAS:
            raise ValidateOptionError(
                f"There is no area '{area}' of probes; there are {', '.join(AREAS)}."
            )
    return [name for name, probe in PROBES.items() if not areas or probe.area in areas]
