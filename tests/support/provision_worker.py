"""Provision a lab with one KEK and one drive, as a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from hsm.errors import TaperigError
from tests.support.provisioned import provision_lab

if __name__ == "__main__":
    try:
        provision_lab(Path(sys.argv[1]), ["key"], ["DRIVE-7"])
    except TaperigError as error:
        print(error)
        sys.exit(2)
