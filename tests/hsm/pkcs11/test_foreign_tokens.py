"""Token on opencryptoki and NSS: protection, lengths, forged CKA_ID."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.foreign_tokens import MAKERS, PIN_VARIABLE

WORKER = Path(__file__).parents[2] / "support" / "foreign_worker.py"


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.rule("KEY-3", "KEY-12")
def test_token_protects_data_keys_on_a_foreign_token(name: str, tmp_path: Path) -> None:
    token = MAKERS[name](tmp_path)
    ended = token.run(
        sys.executable, WORKER, token.module, token.label, PIN_VARIABLE, *token.accept
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["risks"] == [word for word in token.accept if word != "signing-key-in-file"]
    assert report["protected"] == [True, True]
    assert report["value"] == "AttributeSensitive"
    assert report["damaged"] == "UnwrapRefusedError"
    assert report["lengths"].pop("32") == "accepted"
    assert set(report["lengths"].values()) <= {"NotADataKeyError", "UnwrapRefusedError"}
    assert report["forged"] == {"forged key found": False, "real key found": True}
