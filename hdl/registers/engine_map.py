"""Addresses and fields of the engine's registers.

Generated from engine.rdl by `python -m hdl.registers.generate`; do not edit.
"""

from hdl.registers.types import Counter, Register, RegisterField

# CRC-32 of engine.rdl; the engine's hash register must read the same.
MAP_HASH_EXPECTED = 0x72683805

# Windows on the record streams: 16-byte words, first in, first out.
RECORD_IN = 0x1000_0000
RECORD_OUT = 0x2000_0000

ID = Register("ID", 0x00)

VERSION = Register("VERSION", 0x04)
VERSION_MINOR = RegisterField("VERSION_MINOR", 0, 16)
VERSION_MAJOR = RegisterField("VERSION_MAJOR", 16, 16)

MAP_HASH = Register("MAP_HASH", 0x08)

BUILD_HASH = Register("BUILD_HASH", 0x0C)

FEATURES = Register("FEATURES", 0x10)
FEATURES_BANK_LOG2 = RegisterField("FEATURES_BANK_LOG2", 0, 5)
FEATURES_AAD_MAX = RegisterField("FEATURES_AAD_MAX", 8, 8)
FEATURES_PLAIN_PORT = RegisterField("FEATURES_PLAIN_PORT", 16, 1)

SCRATCH = Register("SCRATCH", 0x14, writable=True)

CTRL = Register("CTRL", 0x18, readable=False, writable=True)
CTRL_ZEROIZE = RegisterField("CTRL_ZEROIZE", 0, 1)
CTRL_LOAD_SEALED = RegisterField("CTRL_LOAD_SEALED", 1, 1)
CTRL_LOAD_PLAIN = RegisterField("CTRL_LOAD_PLAIN", 2, 1)
CTRL_LOCK_PLAIN = RegisterField("CTRL_LOCK_PLAIN", 3, 1)
CTRL_COUNTERS_CLEAR = RegisterField("CTRL_COUNTERS_CLEAR", 4, 1)
CTRL_COUNTERS_SNAPSHOT = RegisterField("CTRL_COUNTERS_SNAPSHOT", 5, 1)

STATUS = Register("STATUS", 0x1C)
STATUS_READY = RegisterField("STATUS_READY", 0, 1)
STATUS_SELF_TEST_DONE = RegisterField("STATUS_SELF_TEST_DONE", 1, 1)
STATUS_SELF_TEST_OK = RegisterField("STATUS_SELF_TEST_OK", 2, 1)
STATUS_KEY_VALID = RegisterField("STATUS_KEY_VALID", 3, 1)
STATUS_KEY_LOADING = RegisterField("STATUS_KEY_LOADING", 4, 1)
STATUS_PLAIN_LOCKED = RegisterField("STATUS_PLAIN_LOCKED", 5, 1)
STATUS_ZEROIZING = RegisterField("STATUS_ZEROIZING", 6, 1)
STATUS_FAULT = RegisterField("STATUS_FAULT", 7, 1)
STATUS_UNWRAP_FAILED = RegisterField("STATUS_UNWRAP_FAILED", 8, 1)
STATUS_IDLE = RegisterField("STATUS_IDLE", 9, 1)

PACE = Register("PACE", 0x20, writable=True)
PACE_RATE = RegisterField("PACE_RATE", 0, 16)

CYCLES_BUSY_LO = Register("CYCLES_BUSY_LO", 0x40)

CYCLES_BUSY_HI = Register("CYCLES_BUSY_HI", 0x44)

CYCLES_STALL_SOURCE_LO = Register("CYCLES_STALL_SOURCE_LO", 0x48)

CYCLES_STALL_SOURCE_HI = Register("CYCLES_STALL_SOURCE_HI", 0x4C)

CYCLES_STALL_SINK_LO = Register("CYCLES_STALL_SINK_LO", 0x50)

CYCLES_STALL_SINK_HI = Register("CYCLES_STALL_SINK_HI", 0x54)

RECORDS_LO = Register("RECORDS_LO", 0x58)

RECORDS_HI = Register("RECORDS_HI", 0x5C)

BYTES_LO = Register("BYTES_LO", 0x60)

BYTES_HI = Register("BYTES_HI", 0x64)

TAG_FAILURES_LO = Register("TAG_FAILURES_LO", 0x68)

TAG_FAILURES_HI = Register("TAG_FAILURES_HI", 0x6C)

SEALED_KEY = Register("SEALED_KEY", 0x80, count=10, readable=False, writable=True)

PLAIN_KEY = Register("PLAIN_KEY", 0xC0, count=8, readable=False, writable=True)

CYCLES_BUSY = Counter("CYCLES_BUSY", CYCLES_BUSY_LO, CYCLES_BUSY_HI)
CYCLES_STALL_SOURCE = Counter("CYCLES_STALL_SOURCE", CYCLES_STALL_SOURCE_LO, CYCLES_STALL_SOURCE_HI)
CYCLES_STALL_SINK = Counter("CYCLES_STALL_SINK", CYCLES_STALL_SINK_LO, CYCLES_STALL_SINK_HI)
RECORDS = Counter("RECORDS", RECORDS_LO, RECORDS_HI)
BYTES = Counter("BYTES", BYTES_LO, BYTES_HI)
TAG_FAILURES = Counter("TAG_FAILURES", TAG_FAILURES_LO, TAG_FAILURES_HI)

REGISTERS = (
    ID,
    VERSION,
    MAP_HASH,
    BUILD_HASH,
    FEATURES,
    SCRATCH,
    CTRL,
    STATUS,
    PACE,
    CYCLES_BUSY_LO,
    CYCLES_BUSY_HI,
    CYCLES_STALL_SOURCE_LO,
    CYCLES_STALL_SOURCE_HI,
    CYCLES_STALL_SINK_LO,
    CYCLES_STALL_SINK_HI,
    RECORDS_LO,
    RECORDS_HI,
    BYTES_LO,
    BYTES_HI,
    TAG_FAILURES_LO,
    TAG_FAILURES_HI,
    SEALED_KEY,
    PLAIN_KEY,
)
