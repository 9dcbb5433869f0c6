"""``rig soak``: mixed records for hours, every byte compared."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rig.cli.options import (
    AnyBuildOption,
    BoardOption,
    LabOption,
    OptionError,
    OutOption,
    exit_code_of,
)

if TYPE_CHECKING:
    from rig.lab.model import Lab
    from rig.scenarios.soak_options import SoakOptions

MOST_HOURS = 10_000
MOST_SEED = (1 << 63) - 1
MOST_PARTS = 1_000_000_000


def soak(
    hours: Annotated[
        float | None,
        typer.Option("--hours", metavar="H", help="Soak for H hours by the host's clock."),
    ] = None,
    engine_seconds: Annotated[
        float | None,
        typer.Option(
            "--engine-seconds",
            metavar="S",
            help="Soak until the engine's counters show S seconds of work.",
        ),
    ] = None,
    lab: LabOption = None,
    board: BoardOption = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", help="Seed of all records; by default a random one."),
    ] = None,
    out: OutOption = None,
    any_build: AnyBuildOption = False,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Go on with the soak whose folder this is."),
    ] = None,
    part: Annotated[
        int | None,
        typer.Option(
            "--part", metavar="N", help="Run part N alone, to repeat what was wrong; with --seed."
        ),
    ] = None,
) -> None:
    """Send mixed records through the gates for hours; compare every byte.

    Encrypts, decrypts and passes records of 1 byte to the most that the gates take, with and
    without AAD, under changing keys. Results are compared with those of `cryptography`; gaps and
    rates are judged over the whole time. Ends at the first wrong byte, and says how to repeat it.

    Each part of about a million clocks is kept in soak.jsonl when it ends: after an interruption
    or a kill, --resume goes on with the same lab, board, build, seed and length.
    """
    from rig.scenarios.runner import RunOptions, run_lab
    from rig.testbed.state import state_dir

    _refuse_lengths(hours, engine_seconds)
    _refuse_numbers(seed, part)
    if resume is None:
        if out is not None:
            _refuse_a_soak_in(out)
        chosen, options = _new(hours, engine_seconds, lab, board, seed, part)
    else:
        if out is not None or part is not None:
            raise OptionError("--resume goes without --out and --part; leave them out.")
        chosen, options = _resumed(resume, hours, engine_seconds, lab, board, seed)
    run_options = RunOptions(
        board=options.plan.board,
        out=out,
        any_build=any_build,
        seed=options.plan.seed,
        lab_file=Path(options.plan.lab_file if lab is None else lab),
        soak=options,
    )
    result = run_lab(chosen, state_dir(), run_options)
    raise typer.Exit(exit_code_of(result.verdict))


def _refuse_lengths(hours: float | None, engine_seconds: float | None) -> None:
    for name, value, most in (
        ("--hours", hours, MOST_HOURS),
        ("--engine-seconds", engine_seconds, MOST_HOURS * 3600),
    ):
        if value is not None and not 0 < value <= most:
            raise OptionError(
                f"{name} {value:g} is no length of a soak; give a number above 0, at most {most:,}."
            )


def _refuse_numbers(seed: int | None, part: int | None) -> None:
    if seed is not None and not 0 <= seed <= MOST_SEED:
        raise OptionError(f"--seed is a number from 0 to {MOST_SEED}; give another one.")
    if part is None:
        return
    if not 1 <= part <= MOST_PARTS:
        raise OptionError(f"--part is a number from 1 to {MOST_PARTS:,}; give another one.")
    if seed is None:
        raise OptionError("--part goes with --seed: the same seed has the same parts.")


def _refuse_a_soak_in(folder: Path) -> None:
    from rig.scenarios.soak_journal import NAME

    if (folder / NAME).exists():
        raise OptionError(
            f"The folder {folder} holds a soak already, so nothing was run; go on with it by `rig "
            f"soak --resume {folder}`, or name another folder with --out."
        )


def _new(
    hours: float | None,
    engine_seconds: float | None,
    lab: Path | None,
    board: str | None,
    seed: int | None,
    part: int | None,
) -> tuple[Lab, SoakOptions]:
    from rig.lab.load import default_lab_path, load_lab
    from rig.scenarios.soak_options import SoakOptions, SoakPlan, lab_sha256
    from rig.testbed.boards import choose_board

    if [hours, engine_seconds, part].count(None) != 2:
        raise OptionError(
            "Say how long to soak with either --hours or --engine-seconds, or name one --part to "
            "repeat."
        )
    path = lab if lab is not None else default_lab_path()
    chosen = load_lab(path)
    plan = SoakPlan(
        lab_file=str(path.absolute()),
        lab_sha256=lab_sha256(chosen),
        board=choose_board(chosen, board),
        seed=secrets.randbits(32) if seed is None else seed,
        hours=hours,
        engine_seconds=engine_seconds,
    )
    return chosen, SoakOptions(plan, part=part)


def _resumed(
    folder: Path,
    hours: float | None,
    engine_seconds: float | None,
    lab: Path | None,
    board: str | None,
    seed: int | None,
) -> tuple[Lab, SoakOptions]:
    from rig.lab.load import load_lab
    from rig.scenarios.soak_journal import read_header
    from rig.scenarios.soak_options import SoakOptions, lab_sha256

    plan = read_header(folder).plan
    for name, asked, kept in (
        ("--hours", hours, plan.hours),
        ("--engine-seconds", engine_seconds, plan.engine_seconds),
        ("--board", board, plan.board),
        ("--seed", seed, plan.seed),
    ):
        if asked is not None and asked != kept:
            was = f"began with {name} {kept}" if kept is not None else f"began without {name}"
            raise OptionError(
                f"The soak in {folder} {was}, not {asked}; leave {name} out, or begin a new soak."
            )
    path = lab if lab is not None else Path(plan.lab_file)
    chosen = load_lab(path)
    if lab_sha256(chosen) != plan.lab_sha256:
        raise OptionError(
            f"The soak in {folder} began with another content of the lab file than {path} has now; "
            "put that content back, or begin a new soak."
        )
    return chosen, SoakOptions(plan, resumed=folder)
