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
    MAX_KAD_BYTES,
    PAGE_BYTES,
    VERSION_1,
    VERSION_2,
    CartridgeError,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    RecordHeader,
    Seal,
    TapeFormat,
    check_volser,
    key_check_aad,
)

volsers = st.from_regex(r"[A-Z0-9]{6}", fullmatch=True)
seals = st.builds(
    Seal,
    st.binary(min_size=8, max_size=8).filter(any),
    st.binary(min_size=16, max_size=16),
)


@st.composite
def memories(draw: st.DrawFn) -> CartridgeMemory:
    layout = draw(st.sampled_from([VERSION_1, VERSION_2]))
    tape_format = draw(st.sampled_from(TapeFormat))
    eedk = st.binary(min_size=1, max_size=layout.max_eedk_bytes)
    kad = st.binary(max_size=layout.max_kad_bytes)
    encrypted = tape_format is TapeFormat.ENCRYPTED
    epoch = draw(st.integers(0, 2**32 - 1))
    return CartridgeMemory(
        volser=draw(volsers),
        cartridge_id=draw(st.binary(min_size=16, max_size=16)),
        sequence=draw(st.integers(0, 2**64 - 1)),
        format=tape_format,
        epoch=epoch,
        first_epoch=draw(st.integers(0, epoch)),
        end_offset=draw(st.integers(layout.media_offset, 2**64 - 1)),
        block_count=draw(st.integers(0, 2**48 - 1)),
        key_check=draw(st.binary(min_size=16, max_size=16)),
        eedks=tuple(draw(st.lists(eedk, min_size=1, max_size=2))) if encrypted else (),
        kad=(draw(kad), draw(kad)),
        seal=draw(st.none() | seals) if encrypted and layout.seals else None,
        version=layout.version,
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
    assert len(page) == memory.layout.page_bytes
    assert CartridgeMemory.decode(page) == memory


@given(memories(), memories())
def test_digest_of_a_memory_covers_all_but_its_seal(
    memory: CartridgeMemory, other: CartridgeMemory
) -> None:
    assert memory.digest == replace(memory, seal=None).digest
    same = replace(memory, seal=None) == replace(other, seal=None)
    assert (memory.digest == other.digest) is same
    for change in (
        replace(memory, sequence=memory.sequence ^ 1),
        replace(memory, block_count=memory.block_count ^ 1),
        replace(memory, cartridge_id=bytes(15) + b"x"),
    ):
        assert (change.digest == memory.digest) is (change == memory)


def test_memory_page_with_a_tag_and_no_nonce_is_refused() -> None:
    memory = CartridgeMemory(
        "TAP001", bytes(16), format=TapeFormat.ENCRYPTED, eedks=(b"x",), seal=Seal(bytes(8), b"t")
    )
    with pytest.raises(DamagedCartridgeError, match="a seal without a nonce"):
        CartridgeMemory.decode(memory.encode())
    clear = replace(memory, format=TapeFormat.CLEAR, eedks=(), seal=Seal(b"nonce..8", bytes(16)))
    with pytest.raises(DamagedCartridgeError, match="contradicts itself"):
        CartridgeMemory.decode(clear.encode())


@given(memories(), st.data())
def test_memory_page_with_any_flipped_bit_is_refused(
    memory: CartridgeMemory, data: st.DataObject
) -> None:
    page = bytearray(memory.encode())
    bit = data.draw(st.integers(0, len(page) * 8 - 1))
    page[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedCartridgeError):
        CartridgeMemory.decode(bytes(page))


@given(st.data())
def test_memory_page_with_a_good_crc_may_hold_anything_else(data: st.DataObject) -> None:
    page = bytearray(data.draw(memories()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        page[data.draw(st.integers(0, 300) | st.integers(0, len(page) - 5))] = data.draw(
            st.integers(0, 255)
        )
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
    assert end or (header.length == 0) is (Flags.TAPE_MARK in header.flags)
    assert header.length <= MAX_BLOCK_BYTES


def test_record_header_over_the_block_limit_is_refused() -> None:
    header = RecordHeader(0, MAX_BLOCK_BYTES, Flags.ENCRYPTED, 1, 0)
    assert RecordHeader.decode(header.encode()) == header
    for wrong in (
        replace(header, length=MAX_BLOCK_BYTES + 1),
        replace(header, length=0),
        replace(header, flags=Flags.KEY_CHECK),
        replace(header, flags=Flags.TAPE_MARK),
        replace(header, flags=Flags.TAPE_MARK | Flags.LABEL, length=0),
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


def test_tape_mark_is_a_record_without_data() -> None:
    for flags in (Flags.TAPE_MARK, Flags.TAPE_MARK | Flags.ENCRYPTED):
        mark = RecordHeader(7, 0, flags, 1, 0)
        assert RecordHeader.decode(mark.encode()) == mark
        assert mark.payload_bytes == (16 if mark.encrypted else 0)


def test_memory_page_refuses_what_is_too_long() -> None:
    memory = CartridgeMemory("TAP001", bytes(16), eedks=(bytes(MAX_EEDK_BYTES + 1),))
    with pytest.raises(CartridgeError, match="at most two EEDKs of 1 to 3200 bytes"):
        memory.encode()
    memory = CartridgeMemory("TAP001", bytes(16), kad=(b"", bytes(MAX_KAD_BYTES + 1)))
    with pytest.raises(CartridgeError, match="key-associated data of at most 64 bytes"):
        memory.encode()
    old = CartridgeMemory("TAP001", bytes(16), eedks=(bytes(1025),), version=1)
    with pytest.raises(CartridgeError, match="at most two EEDKs of 1 to 1024 bytes"):
        old.encode()
