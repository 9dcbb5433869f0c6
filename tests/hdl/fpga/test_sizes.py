"""The kept sizes of the engine at each width."""

from hdl.fpga.sizes import Size, kept_sizes, table


def test_narrowest_engine_fits_an_ecp5_25f() -> None:
    (narrowest,) = [size for size in kept_sizes() if size.word_bytes == 1]
    assert narrowest.fits


def test_size_table_says_what_fits_and_what_reaches_a_ts1120() -> None:
    sizes = [Size(16, 29257, 18101, 163, "0"), Size(1, 24288, 24288, 56, "0")]
    assert table(sizes)[2:] == [
        "| 16 | 29,257 | 18,101 | 163 | 1,000 | reached | does not fit |",
        "| 1 | 24,288 | 24,288 | 56 | 62.5 | not reached | fits |",
    ]
    assert not Size(1, 24289, 1, 1, "0").fits
