"""The folder of a lab's key manager: its drive table and its logs."""

from pathlib import Path
from typing import Final

AUDIT_FILE: Final = "audit.jsonl"


def lab_folder(state_dir: Path, name: str) -> Path:
    """Return the folder of the key manager with a name in the lab."""
    return state_dir / "ekm" / name
