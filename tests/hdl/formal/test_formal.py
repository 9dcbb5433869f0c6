"""The quick property sets of hdl/formal, on the design and a broken copy.

`make formal` runs all sets on all broken copies.
"""

import re
from pathlib import Path

import pytest

from hdl.formal.prove import Broken, ProofError, ProofVerdict, property_sets, prove

SETS = property_sets()
QUICK = [name for name, each in SETS.items() if each.quick]


@pytest.mark.parametrize("name", QUICK)
def test_property_set_is_proved(name: str) -> None:
    proof = prove(name)
    assert proof.verdict is ProofVerdict.PROVED, proof.log[-4000:]


@pytest.mark.parametrize(
    ("name", "broken"),
    [(name, broken) for name in QUICK for broken in SETS[name].broken[:1]],
    ids=lambda value: value.what.replace(" ", "-") if isinstance(value, Broken) else value,
)
def test_property_set_refuses_a_broken_copy(name: str, broken: Broken) -> None:
    assert prove(name, broken).verdict is not ProofVerdict.PROVED


def test_prove_keeps_the_trace_that_its_log_names(tmp_path: Path) -> None:
    name = "key_lock"
    proof = prove(name, SETS[name].broken[0], keep=tmp_path / name)
    assert proof.verdict is ProofVerdict.REFUTED
    named = re.findall(rf"{re.escape(str(tmp_path))}\S+\.vcd", proof.log)
    assert named
    assert all(Path(path).stat().st_size for path in named)


def test_every_property_set_has_a_broken_copy() -> None:
    assert [name for name, each in SETS.items() if not each.broken] == []


def test_prove_reports_what_it_cannot_run() -> None:
    with pytest.raises(ProofError, match="no property set nothing"):
        prove("nothing")
    with pytest.raises(ProofError, match=r"occurs 0 times in key_control\.sv"):
        prove("key_lock", Broken("x", "key_control.sv", "no such text", ""))
    with pytest.raises(ProofError, match=r"names no_such\.sv, which is not one source but 0"):
        prove("key_lock", Broken("x", "no_such.sv", "a", "b"))
