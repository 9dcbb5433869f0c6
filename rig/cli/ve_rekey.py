"""``rig ve rekey``: rewrap cartridges with their pools' current keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.options import JsonOption, LabOption, NodeOption, lab_of, print_json
from rig.cli.ve_common import VOLUMES, open_catalogue_of, open_node_of, ve_app

if TYPE_CHECKING:
    from rig.ve.tape.rekey import RekeyReport


@ve_app.command("rekey", rich_help_panel=VOLUMES)
def rekey(
    volsers: Annotated[
        list[str], typer.Argument(metavar="VOLSER", help="Encrypted physical volumes.")
    ],
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rewrap cartridges with their pools' current keys; data is not rewritten.

    Each gets new EEDKs for its data key; the old ones are gone from cartridge memory and media.
    """
    from hsm.errors import TaperigError
    from rig.ve.tape.rekey import rekeyable

    chosen = list(dict.fromkeys(volsers))
    done: list[RekeyReport] = []
    failures: list[TaperigError] = []
    with open_catalogue_of(lab_of(lab), node) as (session, _, _):
        for volser in chosen:
            rekeyable(session, volser)
    with open_node_of(lab, node, drives=True, quiet=as_json) as (opened, report):
        for volser in chosen:
            try:
                done.append(opened.scheduler.rekey(volser))
            except TaperigError as error:
                failures.append(error)
        if failures and not done:
            raise failures[0]
        for failure in failures:
            report.error(str(failure))
    if as_json:
        print_json([_as_json(each) for each in done])
    else:
        for each in done:
            words = " and ".join(f"{key.label!r} ({key.mode} mode)" for key in each.keys)
            print(f"{each.volser}  {words}; {sum(each.opened)} of 2 EEDKs opened here")
    if failures:
        raise typer.Exit(1)


def _as_json(report: RekeyReport) -> dict[str, object]:
    return {
        "volser": report.volser,
        "keys": [{"label": key.label, "mode": key.mode.value} for key in report.keys],
        "opened_here": list(report.opened),
    }
