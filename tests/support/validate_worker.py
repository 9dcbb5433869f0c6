"""Validate a token; print the findings as JSON.

Arguments: ``MODULE LABEL PIN_VARIABLE [SO_PIN_VARIABLE] AREA...``
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hsm.validate.probes import AREAS, PROBES
from hsm.validate.run import validate
from hsm.validate.session import Pins


def main(module: str, label: str, *words: str) -> None:
    pins = [os.environ[word] for word in words if word not in AREAS]
    probes = [name for name, probe in PROBES.items() if probe.area in words]
    officer = pins[1] if len(pins) > 1 else None
    print(validate(Path(module), label, Pins(pins[0], officer), probes=probes).to_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
