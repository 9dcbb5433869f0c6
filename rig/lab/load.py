"""Load and check a lab file."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from rig.lab.base import LabError as LabError
from rig.lab.cross_checks import cross_check
from rig.lab.diagnostics import describe_all
from rig.lab.model import Lab, PinSource
from rig.lab.yaml_source import parse, sentences


def load_lab(path: Path) -> Lab:
    """Read and check a lab file; relative paths in it are taken from its own folder."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"The lab file {path} cannot be read ({error.strerror}); "
            "name another with --lab, or start from the lab.yaml of the project."
        ) from None
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: byte {error.start} is not UTF-8; please save it so.") from None
    data, lines = parse(path, text)
    try:
        lab = Lab.model_validate(data)
    except ValidationError as error:
        raise LabError(sentences(path, lines, describe_all(Lab, error, data))) from None
    mistakes = list(cross_check(lab))
    if mistakes:
        raise LabError(sentences(path, lines, mistakes))
    return _with_absolute_paths(lab, path.absolute().parent)


def _with_absolute_paths(lab: Lab, folder: Path) -> Lab:
    def absolute(path: Path) -> Path:
        return folder / path.expanduser()

    tokens = {}
    for name, token in lab.tokens.items():
        pins = {
            name: PinSource(file=absolute(pin.file)) if pin and pin.file else pin
            for name, pin in (("pin", token.pin), ("so_pin", token.so_pin))
        }
        module = token.module
        if module != "softhsm":
            module = str(absolute(Path(module)))
        tokens[name] = token.model_copy(update={**pins, "module": module})
    scenario = lab.scenario
    if scenario.data is not None:
        scenario = scenario.model_copy(update={"data": tuple(map(absolute, scenario.data))})
    return lab.model_copy(update={"tokens": tokens, "scenario": scenario})


def default_lab_path() -> Path:
    """Return ``lab.yaml`` of the current folder, else the one that comes with the rig."""
    here = Path("lab.yaml")
    if here.exists():
        return here
    home = Path(__file__).with_name("lab.yaml").resolve()  # in a checkout, a link to its own
    return Path(os.path.relpath(home)) if home.is_relative_to(Path.cwd()) else home
