"""The rig's own Token on opencryptoki and NSS: protected keys, checked lengths, no forged names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.foreign_tokens import MAKERS, PIN_VARIABLE

WORKER = Path(__file__).parents[2] / "support" / "foreign_worker.py"


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.rule("KEY-3", "KEY-12")
def test_token(name: str, tmp_path: Path) -> None:
    token = MAKERS[name](tmp_path)
    ended = token.run(
        sys.executable, WORKER, token.module, token.label, PIN_VARIABLE, *token.accept
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["limits"] == [word for word in token.accept if word != "signing-key-in-file"]
    assert told["protected"] == [True, True]
    assert told["value"] == "AttributeSensitive"
    assert told["damaged"] == "UnwrapRefusedError"
    assert told["lengths"].pop("32") == "taken"
    assert set(told["lengths"].values()) <= {"NotADataKeyError", "UnwrapRefusedError"}
    assert told["forged"] == {"taken for it": False, "found after": True}
