"""Mutants of the gates: a few are run, all can be made."""

from __future__ import annotations

import pytest

from tests.mutants.cells import ROOT, Mutant, MutantError, MutantVerdict, mutants, run_cell
from tests.mutants.run import main


@pytest.mark.parametrize("mutant", mutants().values(), ids=lambda mutant: mutant.name)
def test_mutant_changes_one_place_of_its_source(mutant: Mutant) -> None:
    text = (ROOT / "hdl" / "rtl" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    for bench in mutant.benches:
        file, _, test = bench.partition("::")
        source = (ROOT / "tests" / "hdl" / file).read_text(encoding="utf-8")
        assert f"def {test}" in source, bench
    assert mutant.name.startswith(f"{mutant.file.removesuffix('.sv')}-")


def test_mutant_is_killed_by_the_cocotb_test_that_is_named() -> None:
    result = run_cell("ghash-clear-does-nothing", seed=1)
    assert result.verdict is MutantVerdict.KILLED
    assert result.by.startswith("test_ghash_hashes_records[")


def test_mutant_that_no_bench_can_notice_survives() -> None:
    assert run_cell("ghash-new-key-keeps-slots", seed=1).verdict is MutantVerdict.SURVIVED


def test_mutant_that_is_not_there_is_refused() -> None:
    with pytest.raises(MutantError, match="There is no mutant nosuch; choose from: ghash-"):
        run_cell("nosuch", seed=1)
    with pytest.raises(MutantError, match="There is no mutant nosuch"):
        main(["nosuch", "--seed", "1"])
