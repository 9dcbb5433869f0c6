"""The format of a cartridge: encoding, and decoding of any bytes."""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.drive.cartridge_format import (
    HEADER_BYTES,
    KEY_CHECK_IV,
    MAX_BLOCK_BYTES,
    MAX_EEDK_BYTES,
    PAGE_BYTES,
    CartridgeError,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    RecordHeader,
    TapeFormat,
    check_volser,
    key_check_aad,
)

volsers = st.from_regex(r"[A-Z0-9]{6}", fullmatch=True)
eedks = st.lists(st.binary(min_size=1, max_size=MAX_EEDK_BYTES), min_size=1, max_size=2)


@st.composite
def memories(draw: st.DrawFn) -> CartridgeMemory:
    tape_format = draw(st.sampled_from(TapeFormat))
    epoch = draw(st.integers(0, 2**32 - 1))
    return CartridgeMemory(
        volser=draw(volsers),
        cartridge_id=draw(st.binary(min_size=16, max_size=16)),
        sequence=draw(st.integers(0, 2**64 - 1)),
        format=tape_format,
        epoch=epoch,
        first_epoch=draw(st.integers(0, epoch)),
        end_offset=draw(st.integers(8192, 2**64 - 1)),
        block_count=draw(st.integers(0, 2**48 - 1)),
        key_check=draw(st.binary(min_size=16, max_size=16)),
        eedks=tuple(draw(eedks)) if tape_format is TapeFormat.ENCRYPTED else (),
    )


headers = st.builds(
    RecordHeader,
    block=st.integers(0, 2**48 - 2),
    length=st.integers(1, MAX_BLOCK_BYTES),
    flags=st.sampled_from([Flags(0), Flags.ENCRYPTED, Flags.LABEL, Flags.ENCRYPTED | Flags.LABEL]),
    epoch=st.integers(1, 2**32 - 1),
    counter=st.integers(0, 2**64 - 1),
    payload_crc=st.integers(0, 2**32 - 1),
)


@given(memories())
def test_memory_page_decodes_to_what_was_encoded(memory: CartridgeMemory) -> None:
    page = memory.encode()
    assert len(page) == PAGE_BYTES
    assert CartridgeMemory.decode(page) == memory


@given(memories(), st.integers(0, PAGE_BYTES * 8 - 1))
def test_memory_page_with_any_flipped_bit_is_refused(memory: CartridgeMemory, bit: int) -> None:
    page = bytearray(memory.encode())
    page[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedCartridgeError):
        CartridgeMemory.decode(bytes(page))


@given(st.data())
def test_memory_page_with_a_good_crc_may_hold_anything_else(data: st.DataObject) -> None:
    page = bytearray(data.draw(memories()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        page[data.draw(st.integers(0, 2200))] = data.draw(st.integers(0, 255))
    page[-4:] = zlib.crc32(page[:-4]).to_bytes(4, "big")
    try:
        memory = CartridgeMemory.decode(bytes(page))
    except DamagedCartridgeError:
        return
    assert memory.encode() == page


@given(st.binary(max_size=PAGE_BYTES + 1))
def test_memory_page_of_any_bytes_is_an_error_and_no_more(page: bytes) -> None:
    with pytest.raises(DamagedCartridgeError):
        CartridgeMemory.decode(page)


@given(headers)
def test_record_header_decodes_to_what_was_encoded(header: RecordHeader) -> None:
    head = header.encode()
    assert len(head) == HEADER_BYTES
    assert RecordHeader.decode(head) == header
    with pytest.raises(DamagedCartridgeError):
        RecordHeader.decode_end(head)


@given(headers, st.integers(0, HEADER_BYTES * 8 - 1))
def test_record_header_with_any_flipped_bit_is_refused(header: RecordHeader, bit: int) -> None:
    head = bytearray(header.encode())
    head[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedCartridgeError):
        RecordHeader.decode(bytes(head))


@given(st.binary(min_size=HEADER_BYTES - 8, max_size=HEADER_BYTES - 8), st.booleans())
def test_record_header_of_any_bytes_has_a_capped_length(body: bytes, end: bool) -> None:
    head = (b"TEOD" if end else b"TREC") + body
    head += zlib.crc32(head).to_bytes(4, "big")
    try:
        header = RecordHeader.decode_end(head) if end else RecordHeader.decode(head)
    except DamagedCartridgeError:
        return
    assert end or 0 < header.length <= MAX_BLOCK_BYTES


def test_record_header_over_the_block_limit_is_refused() -> None:
    header = RecordHeader(0, MAX_BLOCK_BYTES, Flags.ENCRYPTED, 1, 0)
    assert RecordHeader.decode(header.encode()) == header
    for wrong in (
        replace(header, length=MAX_BLOCK_BYTES + 1),
        replace(header, length=0),
        replace(header, flags=Flags.KEY_CHECK),
        replace(header, block=2**48),
    ):
        with pytest.raises(DamagedCartridgeError):
            RecordHeader.decode(wrong.encode())


def test_record_header_has_iv_and_aad_of_the_format() -> None:
    header = RecordHeader(0x0102030405, 0x1234, Flags.ENCRYPTED, 0xA0B0C0D0, 0x1122334455667788)
    assert header.iv == bytes.fromhex("a0b0c0d0 1122334455667788")
    assert header.aad("TAP001") == b"TAP001" + bytes.fromhex("01 001234 000102030405")


@given(headers, volsers)
def test_record_aad_is_never_that_of_the_key_check(header: RecordHeader, volser: str) -> None:
    assert header.iv != KEY_CHECK_IV
    assert header.aad(volser) != key_check_aad(volser)
    assert len(header.aad(volser)) == len(key_check_aad(volser)) == 16


@pytest.mark.parametrize("text", ["", "tap001", "TAP01", "TAP0001", "TAP 01", "TÄP001", "../../"])
def test_volser_that_is_wrong_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(CartridgeError, match="six capital letters or digits"):
        check_volser(text)


def test_memory_page_refuses_an_eedk_that_is_too_long() -> None:
    memory = CartridgeMemory("TAP001", bytes(16), eedks=(bytes(MAX_EEDK_BYTES + 1),))
    with pytest.raises(CartridgeError, match="at most two EEDKs"):
        memory.encode()
