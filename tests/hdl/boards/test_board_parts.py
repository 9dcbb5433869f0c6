"""The modules around the engine on a board, each on its own bench."""

from pathlib import Path

import pytest

from hdl.sources import BOARD_DIRECTORY
from hdl.verilator.bench import run_bench

HERE = Path(__file__).parent


def parts(*names: str) -> list[Path]:
    """Return the paths of files in hdl/boards/common, in the order given."""
    return [BOARD_DIRECTORY / name for name in names]


@pytest.mark.parametrize("clocks_per_bit", [4, 13])
def test_uart_rx_receives_bytes(clocks_per_bit: int) -> None:
    run_bench(
        "uart_rx",
        parts("uart_rx.sv"),
        "bench_uart_rx",
        parameters={"ClocksPerBit": clocks_per_bit},
        extra_env={"CLOCKS_PER_BIT": str(clocks_per_bit)},
    )


def test_uart_tx_sends_bytes() -> None:
    run_bench("uart_tx", parts("uart_tx.sv"), "bench_uart_tx")


def test_uart_bone_executes_commands() -> None:
    run_bench(
        "uart_bone",
        parts("board_pkg.sv", "uart_bone.sv"),
        "bench_uart_bone",
        parameters={"TimeoutClocks": 100},
    )


def test_queues_keep_order() -> None:
    names = ("byte_fifo.sv", "stream_skid.sv", "stream_stage.sv", "link_errors.sv")
    sources = [*parts(*names), HERE / "queues_top.sv"]
    run_bench("queues_top", sources, "bench_queues")


def test_board_bus_decodes_addresses() -> None:
    run_bench("board_bus", parts("board_pkg.sv", "board_bus.sv"), "bench_board_bus")


def test_frame_tracker_flushes_the_open_record() -> None:
    run_bench("frame_tracker", parts("frame_tracker.sv"), "bench_frame_tracker")


def test_record_in_window_passes_committed_words_only() -> None:
    run_bench(
        "record_in_window",
        parts("window_ram.sv", "record_in_window.sv"),
        "bench_record_in_window",
        parameters={"Words": 8},
    )


def test_record_out_window_keeps_unacknowledged_words() -> None:
    run_bench(
        "record_out_window",
        parts("window_ram.sv", "record_out_window.sv"),
        "bench_record_out_window",
        parameters={"Words": 8},
    )


def test_traffic_generator_sends_and_checks_records() -> None:
    run_bench("traffic", parts("traffic.sv"), "bench_traffic")


def test_key_loader_shares_the_register_bus() -> None:
    run_bench("key_loader", parts("board_pkg.sv", "key_loader.sv"), "bench_key_loader")
