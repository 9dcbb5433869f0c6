"""Simulated gates that are slow in one way, as the rates must notice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hdl import sources
from hdl.files import replace_once
from hdl.sim import launch

SLOW = {
    "encrypt_path_8_times_slower": 1,
    "evenly_5_percent_slower": 2,
    "in_bursts_of_1000_clocks": 3,
    "in_a_gap_of_200000_of_4000000_clocks": 4,
    "decrypt_only": 5,
    "above_64_kib_only": 6,
    "with_aad_only": 7,
    "after_a_key_change_only": 8,
    "from_the_second_record_on": 9,
    "odd_lengths_only": 10,
    "clear_only": 11,
    "every_1000th_record_only": 12,
    "decrypt_after_encrypt_only": 13,
    "records_of_1000_bytes_encrypted_only": 14,
    "for_longer_and_longer": 15,
    "in_gaps_of_30_of_2000_clocks": 16,
    "3000_to_3900_bytes_encrypted_only": 19,
    "20000_to_30000_bytes_encrypted_only": 20,
    "decrypt_after_a_longer_record_only": 21,
    "every_64th_record_only": 22,
    "first_result_5000_clocks_late": 23,
    "encrypt_8_times_slower_and_not_counted": 24,
    "every_second_clock_counted_only": 25,
    "in_bursts_of_1000_clocks_that_are_no_gap": 26,
    "first_result_5000_clocks_late_and_not_counted": 27,
    "last_results_at_half_rate": 28,
    "last_results_5_percent_slower": 29,
}
"""The numbers of slow.svh, which is written into a copy of drive_crypto.sv."""

SLIGHTLY_SLOW = {"half_a_percent_slower": 17, "one_record_in_100_a_clock_slower": 18}
"""Those that no limit notices, but the baseline does."""


def slow_sources(folder: Path) -> Path:
    """Copy the RTL into a folder and make it slow on demand; return the copy."""
    copy = folder / "rtl"
    shutil.copytree(sources.RTL_DIRECTORY, copy)
    top = copy / "drive_crypto.sv"
    replace_once(top, ".room_i           (room)", ".room_i           (room & ~hold)")
    replace_once(
        top,
        ".out_valid_o      (out_valid),\n      .out_ready_i      (out_ready),",
        ".out_valid_o      (result_made),\n      .out_ready_i      (out_ready & ~late),",
    )
    replace_once(
        top,
        ".busy_i               (issue_active | issue_waiting),",
        ".busy_i               ((issue_active | issue_waiting) & ~uncounted),",
    )
    replace_once(
        top,
        ".inside_i         (issue_active | ~ledger_empty | output_busy),",
        ".inside_i         ((issue_active | ~ledger_empty | output_busy) & slow != 26),",
    )
    replace_once(
        top, ".out_valid_i      (out_valid),\n", ".out_valid_i      (out_valid & slow != 27),\n"
    )
    text = top.read_text()
    snippet = Path(__file__).with_name("slow.svh").read_text()
    at = text.index("  // ----", text.index("logic issue_active"))
    top.write_text(text[:at] + snippet + text[at:])
    return copy


@contextmanager
def slow_simulation(rtl: Path, number: int) -> Iterator[None]:
    """Simulate the copy in this process, slow in way `number`.

    Way 0 is not slow.
    """
    with (
        patch.multiple(sources, RTL_DIRECTORY=rtl, GENERATED_DIRECTORY=rtl / "generated"),
        patch.multiple(
            launch,
            RTL_DIRECTORY=rtl,
            GENERATED_DIRECTORY=rtl / "generated",
            power_up_plusargs=lambda: [f"+slow={number}"],
        ),
    ):
        yield
