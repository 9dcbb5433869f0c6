"""Some benches at the narrowest width; `make widths` runs all of them."""

from collections.abc import Sequence

import pytest
from test_aes_encrypt import SOURCES as CIPHER
from test_engine import FLAGS, HERE, NO_ASSERTIONS, SOURCES

from hdl.errors import HdlError
from hdl.verilator.bench import rtl, run_bench
from hdl.widths import DEFAULT_WIDTH, PARAMETER, WIDTH_VARIABLE, WIDTHS, bench_width, require_width

NARROWEST = WIDTHS[-1]
ENVIRONMENT = {WIDTH_VARIABLE: str(NARROWEST)}
in_short = pytest.mark.skipif(
    bench_width() != DEFAULT_WIDTH, reason="the benches run whole at another width"
)


@in_short
@pytest.mark.parametrize(
    ("bench", "tests"),
    [
        ("bench_engine_records", ("time_does_not_depend_on_key_and_data",)),
        ("bench_engine_gaps", ("latency_of_a_single_record_is_that_of_the_documentation",)),
        ("bench_engine_ring", ("zeroize_among_failed_records", "cut_frame_ends_with_a_key_change")),
        ("bench_engine_zeroize", ("zeroize_at_random_clocks", "zeroize_clears_at_its_first_clock")),
        ("bench_engine_torn", ("torn_records_among_others_with_stalls",)),
        ("bench_engine_vectors", ("encrypt",)),
    ],
)
def test_narrowest_engine_passes(bench: str, tests: Sequence[str]) -> None:
    run_bench(
        "engine_top",
        SOURCES,
        bench,
        parameters={PARAMETER: NARROWEST, "BankBytes": 4096},
        vlt=[HERE / "engine_visible.vlt"],
        flags=FLAGS,
        plusargs=NO_ASSERTIONS if "zeroize" in bench else (),
        testcase=tests,
        extra_env=ENVIRONMENT,
    )


@in_short
def test_narrowest_cipher_reports_bit_flips() -> None:
    run_bench(
        "aes_encrypt_top",
        [*CIPHER, HERE / "aes_encrypt_top.sv"],
        "bench_aes_encrypt",
        parameters={PARAMETER: NARROWEST},
        vlt=[HERE / "registers_flippable.vlt"],
        plusargs=NO_ASSERTIONS,
        testcase=("known_answers", "flips_are_reported", "clear_leaves_nothing"),
        extra_env=ENVIRONMENT,
    )


@in_short
def test_narrowest_ghash_hashes_records() -> None:
    run_bench(
        "ghash",
        rtl("drive_crypto_pkg.sv", "clmul_32.sv", "gf128_mul.sv", "ghash.sv"),
        "bench_ghash",
        parameters={PARAMETER: NARROWEST},
        vlt=[HERE / "registers_visible.vlt"],
        testcase=("every_short_length_back_to_back", "clear_leaves_nothing"),
        extra_env=ENVIRONMENT,
    )


def test_width_that_the_engine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in WIDTHS:
        require_width(width)
    for width in (0, 2, 32):
        with pytest.raises(HdlError, match=f"for {width} bytes a clock; choose 16, 8, 4 or 1"):
            require_width(width)
    monkeypatch.setenv(WIDTH_VARIABLE, "4")
    assert bench_width() == 4
    monkeypatch.setenv(WIDTH_VARIABLE, "")
    assert bench_width() == DEFAULT_WIDTH
    for wrong in ("2", "x", "-1", " 8"):
        monkeypatch.setenv(WIDTH_VARIABLE, wrong)
        with pytest.raises(HdlError, match=f"{WIDTH_VARIABLE} is '{wrong}'"):
            bench_width()
