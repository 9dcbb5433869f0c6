"""Addresses and fields of the board's registers.

Generated from board.rdl by `python -m hdl.registers.generate`; do not edit.
"""

from hdl.registers.types import Register, RegisterField

# CRC-32 of board.rdl; the board's hash register must read the same.
MAP_HASH_EXPECTED = 0x13029A9A

# Commit and acknowledge words of the record windows (record_*_window.sv).
IN_COMMIT = 0x1000_0010
OUT_ACK = 0x2000_0010

BOARD_ID = Register("BOARD_ID", 0x0001_0000)

BOARD_MAP_HASH = Register("BOARD_MAP_HASH", 0x0001_0004)

BOARD_FEATURES = Register("BOARD_FEATURES", 0x0001_0008)
BOARD_FEATURES_WINDOW_LOG2 = RegisterField("BOARD_FEATURES_WINDOW_LOG2", 0, 5)
BOARD_FEATURES_TRAFFIC = RegisterField("BOARD_FEATURES_TRAFFIC", 8, 1)

BOARD_CTRL = Register("BOARD_CTRL", 0x0001_000C, readable=False, writable=True)
BOARD_CTRL_FLUSH = RegisterField("BOARD_CTRL_FLUSH", 0, 1)
BOARD_CTRL_TRAFFIC_START = RegisterField("BOARD_CTRL_TRAFFIC_START", 1, 1)

BOARD_STATUS = Register("BOARD_STATUS", 0x0001_0010)
BOARD_STATUS_FLUSHING = RegisterField("BOARD_STATUS_FLUSHING", 0, 1)
BOARD_STATUS_TRAFFIC_BUSY = RegisterField("BOARD_STATUS_TRAFFIC_BUSY", 1, 1)

IN_COUNT = Register("IN_COUNT", 0x0001_0020)

IN_STATE = Register("IN_STATE", 0x0001_0024)
IN_STATE_FREE = RegisterField("IN_STATE_FREE", 0, 16)
IN_STATE_STAGED = RegisterField("IN_STATE_STAGED", 16, 16)

OUT_COUNT = Register("OUT_COUNT", 0x0001_0028)
OUT_COUNT_VALUE = RegisterField("OUT_COUNT_VALUE", 0, 16)

OUT_LEVEL = Register("OUT_LEVEL", 0x0001_002C)
OUT_LEVEL_VALUE = RegisterField("OUT_LEVEL_VALUE", 0, 16)

LINK_ERRORS = Register("LINK_ERRORS", 0x0001_0030)
LINK_ERRORS_LINE = RegisterField("LINK_ERRORS_LINE", 0, 8)
LINK_ERRORS_TIMEOUTS = RegisterField("LINK_ERRORS_TIMEOUTS", 8, 8)
LINK_ERRORS_BAD_COMMANDS = RegisterField("LINK_ERRORS_BAD_COMMANDS", 16, 8)
LINK_ERRORS_BUS = RegisterField("LINK_ERRORS_BUS", 24, 8)

LINK_RX_CRC = Register("LINK_RX_CRC", 0x0001_0034)

LINK_TX_CRC = Register("LINK_TX_CRC", 0x0001_0038)

TRAFFIC_SHAPE = Register("TRAFFIC_SHAPE", 0x0001_0040, writable=True)
TRAFFIC_SHAPE_SIZE = RegisterField("TRAFFIC_SHAPE_SIZE", 0, 19)
TRAFFIC_SHAPE_AAD = RegisterField("TRAFFIC_SHAPE_AAD", 19, 8)
TRAFFIC_SHAPE_OP = RegisterField("TRAFFIC_SHAPE_OP", 28, 4)

TRAFFIC_RECORDS = Register("TRAFFIC_RECORDS", 0x0001_0044, writable=True)

TRAFFIC_SEED = Register("TRAFFIC_SEED", 0x0001_0048, writable=True)

TRAFFIC_GOOD = Register("TRAFFIC_GOOD", 0x0001_004C)

TRAFFIC_BAD = Register("TRAFFIC_BAD", 0x0001_0050)

TRAFFIC_KEY_EVERY = Register("TRAFFIC_KEY_EVERY", 0x0001_0054, writable=True)

TRAFFIC_TAG = Register("TRAFFIC_TAG", 0x0001_0060, count=4, writable=True)

TRAFFIC_CHECK = Register("TRAFFIC_CHECK", 0x0001_0070, count=4)

TRAFFIC_KEY = Register("TRAFFIC_KEY", 0x0001_0080, count=10, readable=False, writable=True)

REGISTERS = (
    BOARD_ID,
    BOARD_MAP_HASH,
    BOARD_FEATURES,
    BOARD_CTRL,
    BOARD_STATUS,
    IN_COUNT,
    IN_STATE,
    OUT_COUNT,
    OUT_LEVEL,
    LINK_ERRORS,
    LINK_RX_CRC,
    LINK_TX_CRC,
    TRAFFIC_SHAPE,
    TRAFFIC_RECORDS,
    TRAFFIC_SEED,
    TRAFFIC_GOOD,
    TRAFFIC_BAD,
    TRAFFIC_KEY_EVERY,
    TRAFFIC_TAG,
    TRAFFIC_CHECK,
    TRAFFIC_KEY,
)
