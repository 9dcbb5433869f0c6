"""The firmware of a tape drive, between VE and encryption hardware.

A drive under system-managed encryption does what the medium and the position say. Writing from BOT
begins in the mode set before (`set_encryption`); anything else keeps the cartridge's own
format. Where a data key (DK) is needed and none is set, `read` and `write` raise KeyRequired; then

    session = drive.key_session()      # relay it to a key manager and back
    drive.accept_key(session.grant)    # sets the DK into the hardware

and the command is repeated. The DK passes through the drive only wrapped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import NoReturn

from hsm.ekm.protocol.drive_side import DriveRequest, DriveSession, Generate, Rekey, Translate
from hsm.ekm.protocol.messages import KeyGrant
from hsm.errors import TaperigError
from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge, StoredRecord
from rig.drive.cartridge_format import (
    KEY_CHECK_BYTES,
    KEY_CHECK_IV,
    MAX_BLOCK_BYTES,
    CartridgeMemory,
    DamagedCartridgeError,
    Flags,
    RecordHeader,
    Seal,
    TapeFormat,
    key_check_aad,
    seal_iv,
    seal_nonce,
)
from rig.drive.secure_element import SecureElement, SedkError
from rig.drive.sense import KEY_FAIL_LIMIT, DriveError, KeyRequired, Sense
from rig.engine.driver import (
    Counters,
    Engine,
    Operation,
    PromisedClocks,
    Record,
    RecordStatus,
    Result,
    UnwrapFailed,
)

READ_AHEAD_BYTES = 4 * 1024 * 1024
"""Data that one `read` returns at most, in bytes, and so what passes through the gates at once."""


class Direction(Enum):
    """The direction of a transfer."""

    WRITE = "write"
    READ = "read"


ToAppend = tuple[RecordHeader, bytes, bytes]
"""A record's header, data and tag."""

Batch = tuple[Sequence["Block"], list[ToAppend], CartridgeMemory]
"""Blocks, their records, and the cartridge memory once they are written, sealed."""

Figures = dict[tuple[Direction, Operation], Counters]
"""The engine's counters in a mount, by direction and operation."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of 1 byte to 256 KiB, or a tape mark.

    `label` marks labels of logical volumes. A tape mark has no data.
    """

    data: bytes
    label: bool = False

    @property
    def mark(self) -> bool:
        """Whether it is a tape mark."""
        return not self.data

    @property
    def flags(self) -> Flags:
        """The flags of its record, but for encryption."""
        if self.mark:
            return Flags.TAPE_MARK
        return Flags.LABEL if self.label else Flags(0)


TAPE_MARK = Block(b"")


@dataclass(frozen=True, slots=True)
class _FromBot:
    """The mode of the next write from BOT; without labels it is clear."""

    labels: tuple[KeyLabel, ...] = ()
    allow_public_only: bool = False
    kad: tuple[bytes, bytes] = (b"", b"")


@dataclass(frozen=True, slots=True)
class _Keyed:
    """The hardware while it holds the cartridge's data key."""

    process: Callable[[Record], Result]
    """Passes an empty record; raises DriveError when the hardware does not."""

    def tag(self, iv: bytes, aad: bytes) -> bytes:
        """Return the tag of an empty record."""
        return self.process(Record(Operation.ENCRYPT, b"", iv=iv, aad=aad)).tag

    def matches(self, iv: bytes, aad: bytes, tag: bytes) -> bool:
        """Whether an empty record has this tag."""
        record = Record(Operation.DECRYPT, b"", iv=iv, aad=aad, tag=tag)
        return self.process(record).status is RecordStatus.OK


class Drive:
    """A drive with its encryption hardware (`engine`) and secure element."""

    def __init__(
        self,
        engine: Engine,
        element: SecureElement,
        serial: str,
        model: str,
        *,
        ekm_ca_der: bytes,
    ) -> None:
        """Take the parts of a drive; `ekm_ca_der` is the key managers' CA."""
        self.serial = serial
        self.model = model
        self.figures: Figures = {}
        self.promised_clocks: dict[tuple[Direction, Operation], float] = {}
        """Clocks in which the gates' build promises to do what `figures` has."""
        self._engine = engine
        self._keyed = _Keyed(self._process_empty)
        self._element = element
        self._ekm_ca_der = ekm_ca_der
        self._cartridge: Cartridge | None = None
        self._reset()

    def _reset(self) -> None:
        self._position = 0
        self._from_bot: _FromBot | None = None
        self._writing = False
        self._overwrite_at: int | None = None
        self._key_set = False
        self._wanted: Generate | Translate | None = None
        self._granted: tuple[tuple[bytes, ...], bytes] = ((), bytes(KEY_CHECK_BYTES))
        self._wrong_keys = 0

    # Mount

    def load(self, cartridge: Cartridge) -> TapeFormat:
        """Load a cartridge and recognize its format (APP-2a, READ-2a)."""
        if self._cartridge is not None:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Drive {self.serial} holds cartridge {self._cartridge.volser} already",
            )
        if self._engine.key_valid:
            self._engine.zeroize()
        self._reset()
        self.figures, self.promised_clocks = {}, {}
        self._cartridge = cartridge
        return cartridge.format

    def unload(self) -> Figures:
        """Zeroize, then unload the cartridge (BOT-4); return the mount's figures.

        A writing pass is ended before, while the key is there to seal the cartridge memory. Without
        it the cartridge is as after a power cut: nothing acknowledged is lost.
        """
        cartridge = self._loaded()
        try:
            try:
                with suppress(DriveError):
                    cartridge.end_pass()
            finally:
                self._forget_key()
            if self._engine.key_valid:
                raise DriveError(
                    Sense.ENGINE_FAILURE,
                    f"Drive {self.serial} still holds a data key after it was zeroized",
                )
        finally:
            self._cartridge = None
            self._reset()
            cartridge.close()
        return self.figures

    @property
    def loaded(self) -> bool:
        """Whether a cartridge is in the drive."""
        return self._cartridge is not None

    @property
    def encrypting(self) -> bool:
        """Whether what is written or read next passes through encryption."""
        if self._from_bot is not None:
            return bool(self._from_bot.labels)
        return self._loaded().format is TapeFormat.ENCRYPTED

    @property
    def position(self) -> int:
        """The number of the block that comes next."""
        return self._position

    @property
    def max_block_bytes(self) -> int:
        """The longest block that the hardware takes; longer ones are refused."""
        return min(MAX_BLOCK_BYTES, self._engine.max_data_bytes)

    @property
    def block_count(self) -> int:
        """Blocks on the cartridge."""
        return self._loaded().block_count

    # Position

    def set_encryption(
        self,
        labels: Sequence[KeyLabel] | None,
        *,
        allow_public_only: bool = False,
        kad: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        """Rewind and set the mode of the next write, which is from BOT.

        With `labels` (one or two) it encrypts under a fresh data key; with None it does not. `kad`
        are two fields of key-associated data, at most 64 bytes each.
        """
        self._writable()
        if labels is not None and not 1 <= len(labels) <= 2:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Drive {self.serial} was given {len(labels)} key labels instead of one or two",
            )
        if self._writing:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Drive {self.serial} is writing; demount {self._loaded().volser} first",
            )
        self._forget_key()
        self._position = 0
        self._from_bot = _FromBot(tuple(labels or ()), allow_public_only, kad)

    def locate(self, block: int) -> None:
        """Position to a block; a key is neither needed nor asked for."""
        count = self._loaded().block_count
        if not 0 <= block <= count:
            raise DriveError(
                Sense.POSITION,
                f"There is no block {block} on {self._loaded().volser}, which has {count}",
            )
        self._position = block

    def locate_append_point(self) -> int:
        """Position behind the last block (APP-2b), before any key is asked for."""
        self.locate(self._loaded().block_count)
        return self._position

    def allow_overwrite(self) -> None:
        """Let the next write replace what is at the position and behind it.

        Without it blocks are only appended.
        """
        self._writable()
        self._overwrite_at = self._position

    # Keys

    def key_session(self) -> DriveSession:
        """Begin the key exchange that the last KeyRequired asked for."""
        if self._wanted is None:
            raise DriveError(
                Sense.COMMAND_SEQUENCE, f"Drive {self.serial} has no need of a data key"
            )
        return self._session(self._wanted)

    def _session(self, request: DriveRequest) -> DriveSession:
        return DriveSession(self._element, self._ekm_ca_der, self.serial, request)

    def accept_key(self, grant: KeyGrant) -> None:
        """Decrypt the granted key and set it into the hardware.

        Rules BOT-2d, APP-2e, READ-2d. A key that is not the cartridge's is refused before anything
        is read or written with it.
        """
        wanted, cartridge = self._wanted, self._loaded()
        if wanted is None:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Drive {self.serial} was given a data key that it did not ask for",
            )
        if self._wrong_keys >= KEY_FAIL_LIMIT:
            raise DriveError(
                Sense.KEY_FAIL_LIMIT,
                f"Drive {self.serial} was given {self._wrong_keys} wrong keys for "
                f"{cartridge.volser} and takes no more",
            )
        try:
            self._set_key(grant, cartridge)
            if isinstance(wanted, Generate):
                key_check = self._keyed.tag(KEY_CHECK_IV, key_check_aad(cartridge.volser))
                self._granted = (grant.eedks, key_check)
            else:
                self._check_key(cartridge)
                cartridge.unlock(self._keyed)
        except TaperigError:
            self._forget_key()
            raise
        self._key_set = True
        self._wanted = None

    @property
    def granted_eedks(self) -> tuple[bytes, ...]:
        """The EEDKs granted for a write from BOT that has not begun."""
        return self._granted[0]

    # New EEDKs for a cartridge

    def rekey_session(
        self, labels: Sequence[KeyLabel], *, allow_public_only: bool = False
    ) -> DriveSession:
        """Begin the exchange for new EEDKs of the same data key."""
        cartridge = self._rekeyable()
        eedks = cartridge.memory.eedks
        return self._session(
            Rekey(
                cartridge.volser,
                cartridge.memory.cartridge_id,
                eedks,
                tuple(labels),
                allow_public_only,
            )
        )

    def proof_session(self, eedk: bytes) -> DriveSession:
        """Begin the exchange that gives `prove` the data key in an EEDK."""
        return self._session(_translate(self._loaded(), (eedk,)))

    def prove(self, grant: KeyGrant) -> None:
        """Check that the granted key is the cartridge's.

        It stays set for `store_eedks`. Raises DriveError (wrong key) otherwise; the hardware
        decides, by the cartridge's key check.
        """
        if self._from_bot is not None and self._key_set:
            self._prove_granted(grant)
            return
        self._rekeyable()
        self._wanted = _translate(self._loaded(), grant.eedks)
        self.accept_key(grant)

    def _prove_granted(self, grant: KeyGrant) -> None:
        """Check that a key is the one granted for the write from BOT."""
        cartridge = self._writable()
        key_check = self._granted[1]
        try:
            self._set_key(grant, cartridge)
            if not self._keyed.matches(KEY_CHECK_IV, key_check_aad(cartridge.volser), key_check):
                raise DriveError(
                    Sense.WRONG_KEY,
                    f"An EEDK made for {cartridge.volser} holds another key than the one granted",
                )
        except TaperigError:
            self._forget_key()
            raise

    def store_eedks(self, eedks: tuple[bytes, ...]) -> None:
        """Replace the cartridge's EEDKs, which `prove` has checked before.

        The memory is sealed with the key that was proved last; then that is zeroized.
        """
        cartridge = self._rekeyable()
        if not self._key_set:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Drive {self.serial} has no data key set to seal new EEDKs of {cartridge.volser} "
                f"with",
            )
        try:
            cartridge.rekey(eedks)
        finally:
            self._forget_key()

    def _rekeyable(self) -> Cartridge:
        cartridge = self._writable()
        if cartridge.format is not TapeFormat.ENCRYPTED or self._writing or self._from_bot:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Cartridge {cartridge.volser} in drive {self.serial} is being written, or is not "
                f"encrypted, and gets no new EEDKs",
            )
        return cartridge

    # The key in the hardware

    def _set_key(self, grant: KeyGrant, cartridge: Cartridge) -> None:
        try:
            sealed = self._element.rewrap_for_engine(grant.sedk)
        except SedkError as error:
            raise DriveError(
                Sense.KEY_WRAPPING_FAILURE,
                f"Drive {self.serial} cannot unwrap the key granted for {cartridge.volser}: "
                f"{_clause(error)}",
            ) from error
        try:
            self._engine.load_sealed_key(sealed)
        except UnwrapFailed as error:
            raise DriveError(
                Sense.SECURITY_ERROR,
                f"The encryption hardware of drive {self.serial} refuses the key for "
                f"{cartridge.volser}: {_clause(error)}",
            ) from error

    def _check_key(self, cartridge: Cartridge) -> None:
        aad = key_check_aad(cartridge.volser)
        if not self._keyed.matches(KEY_CHECK_IV, aad, cartridge.memory.key_check):
            self._wrong_keys += 1
            raise DriveError(
                Sense.WRONG_KEY, f"The key granted for {cartridge.volser} is not its data key"
            )

    def _need_key(self, why: Generate | Translate, sense: Sense, text: str) -> NoReturn:
        self._wanted = why
        raise KeyRequired(sense, f"Drive {self.serial} needs the data key of {why.volume} {text}")

    def _forget_key(self) -> None:
        self._key_set = False
        self._wanted = None
        self._granted = ((), bytes(KEY_CHECK_BYTES))
        self._engine.zeroize()

    # Write

    def write(self, blocks: Sequence[Block]) -> None:
        """Write blocks at the position; they are synced on return.

        Raises KeyRequired, with nothing written, when a data key must be set first.
        """
        self.write_batches([blocks])

    def write_batches(
        self,
        batches: Iterable[Sequence[Block]],
        synced: Callable[[Sequence[Block]], None] = lambda blocks: None,
    ) -> None:
        """Write batches of blocks at the position, as `write` does.

        While one goes to tape, the hardware encrypts the next; `synced` is called with each when
        it is safe. When `batches` raises an error, the batches before are written first.
        """
        cartridge = self._writable()
        self._check_position(cartridge)
        if self.encrypting and not self._key_set:
            self._need_key_to_write(cartridge)
        if not self._writing or self._overwrite_at is not None:
            self._begin(cartridge)
        with (
            ThreadPoolExecutor(1, thread_name_prefix="tape") as tape,
            closing(self._encrypt(cartridge, batches)) as encrypted,
        ):
            appending: tuple[Future[None], Sequence[Block]] | None = None

            def finish_appending() -> None:
                if appending is not None:
                    appending[0].result()
                    self._position = cartridge.block_count
                    synced(appending[1])

            for blocks, records, memory in encrypted:
                finish_appending()
                appending = tape.submit(cartridge.append, records, memory), blocks
            finish_appending()

    def _encrypt(
        self, cartridge: Cartridge, batches: Iterable[Sequence[Block]]
    ) -> Generator[Batch, None, None]:
        """Yield each batch with its records, in the cartridge's format.

        The seal of the memory after a batch goes through the hardware right behind its records.
        """
        volser = cartridge.volser
        under_way: deque[tuple[Sequence[Block], list[RecordHeader], CartridgeMemory]] = deque()

        def records() -> Iterator[Record]:
            first = cartridge.block_count
            memory: CartridgeMemory | None = None
            for blocks in batches:
                sizes = [(len(block.data), block.flags) for block in blocks]
                headers = cartridge.next_headers(sizes, first)
                first += len(blocks)
                memory = cartridge.after(headers, memory)
                nonce = seal_nonce()
                under_way.append((blocks, headers, replace(memory, seal=Seal(nonce, b""))))
                for header, block in zip(headers, blocks, strict=True):
                    if header.encrypted:
                        yield Record(
                            Operation.ENCRYPT, block.data, iv=header.iv, aad=header.aad(volser)
                        )
                    elif block.data:
                        yield Record(Operation.BYPASS, block.data)
                if memory.sealable:
                    yield Record(Operation.ENCRYPT, b"", iv=seal_iv(nonce), aad=memory.digest)

        def passed(headers: Sequence[RecordHeader], memory: CartridgeMemory) -> int:
            """Return how many results belong to a batch."""
            return sum(each.encrypted or each.length > 0 for each in headers) + memory.sealable

        operation = Operation.ENCRYPT if self.encrypting else Operation.BYPASS
        ready: deque[Result] = deque()
        with closing(self._stream(Direction.WRITE, operation, records())) as streamed:
            for results in streamed:
                ready.extend(results)
                while under_way and len(ready) >= passed(*under_way[0][1:]):
                    blocks, headers, memory = under_way.popleft()
                    to_append = [
                        self._to_append(header, ready.popleft())
                        if header.encrypted or header.length
                        else (header, b"", b"")
                        for header in headers
                    ]
                    yield blocks, to_append, self._with_seal(memory, ready)

    def _with_seal(self, memory: CartridgeMemory, ready: deque[Result]) -> CartridgeMemory:
        """Return the memory with its seal, the next of the results, if it has one."""
        if not memory.sealable or memory.seal is None:
            return replace(memory, seal=None)
        result = ready.popleft()
        if result.status is not RecordStatus.OK:
            raise self._failed_at(result.status, f"the memory of {memory.volser}")
        return replace(memory, seal=replace(memory.seal, tag=result.tag))

    def _to_append(self, header: RecordHeader, result: Result) -> ToAppend:
        """Return what goes to tape; raises DriveError if it was refused."""
        if result.status is not RecordStatus.OK:
            raise self._failed(header, result.status)
        return header, result.data, result.tag

    def _check_position(self, cartridge: Cartridge) -> None:
        """Refuse to write elsewhere than at BOT, if asked for, or at the end."""
        if self._from_bot is not None and self._position == 0:
            return
        if self._from_bot is None and self._overwrite_at == self._position:
            return
        self._overwrite_at = None
        if self._from_bot is not None or self._position != cartridge.block_count:
            raise DriveError(
                Sense.POSITION,
                f"Drive {self.serial} stands at block {self._position} of {cartridge.volser}, "
                f"which ends at {cartridge.block_count}",
            )
        if cartridge.format is TapeFormat.BLANK:
            raise DriveError(
                Sense.COMMAND_SEQUENCE,
                f"Cartridge {cartridge.volser} is blank, and drive {self.serial} has no mode set "
                f"to write it from BOT",
            )

    def _need_key_to_write(self, cartridge: Cartridge) -> NoReturn:
        if self._from_bot is not None:
            request = Generate(
                cartridge.volser,
                cartridge.memory.cartridge_id,
                self._from_bot.labels,
                self._from_bot.allow_public_only,
            )
            self._need_key(request, Sense.KEY_GENERATE, "to write it from BOT")
        self._need_key_again(cartridge, "to append to it")

    def _need_key_again(self, cartridge: Cartridge, text: str) -> NoReturn:
        request = _translate(cartridge, cartridge.memory.eedks)
        self._need_key(request, Sense.KEY_TRANSLATE, text)

    def _begin(self, cartridge: Cartridge) -> None:
        """Begin the writing pass; only now is the cartridge changed."""
        if self._writing:
            cartridge.end_pass()
        if self._from_bot is None:
            cartridge.begin_append(self._overwrite_at)
        elif self._from_bot.labels:
            kad = self._from_bot.kad
            cartridge.begin_from_bot(
                TapeFormat.ENCRYPTED, *self._granted, kad=kad, keyed=self._keyed
            )
        else:
            cartridge.begin_from_bot(TapeFormat.CLEAR)
        self._writing = True
        self._from_bot = self._overwrite_at = None

    # Read

    def read(self, most_bytes: int = READ_AHEAD_BYTES) -> list[Block]:
        """Read blocks from the position on; none at the end of data.

        At least one block is read, and at most `most_bytes`. No data is returned before its tag has
        matched. A bad block is reported when it is the next; the blocks before it are returned
        first. Raises KeyRequired when a data key must be set.
        """
        cartridge = self._loaded()
        count = self._next_blocks(cartridge, most_bytes)
        if not count:
            if cartridge.damage:
                raise DriveError(Sense.FORMAT_CORRUPTED, _clause(cartridge.damage))
            return []
        if cartridge.format is TapeFormat.ENCRYPTED and not self._key_set:
            self._need_key_again(cartridge, "to read it")
        stored = self._stored(cartridge, count)
        good = self._take_readable(cartridge, stored)
        passed = [record for record in good if record.header.encrypted or record.data]
        results = iter(
            self._process(Direction.READ, [_to_engine(each, cartridge.volser) for each in passed])
        )
        blocks: list[Block] = []
        for record in good:
            data = b""
            if record.header.encrypted or record.data:
                result = next(results)
                if result.status is not RecordStatus.OK:
                    if not blocks:
                        raise self._unreadable(record, result.status)
                    break
                data = result.data
            blocks.append(Block(data, Flags.LABEL in record.header.flags))
        self._position += len(blocks)
        return blocks

    def _stored(self, cartridge: Cartridge, count: int) -> list[StoredRecord]:
        """Return the next records, or the first where the disk lacks some."""
        try:
            return cartridge.read(self._position, count)
        except DamagedCartridgeError as error:
            if count == 1:
                raise DriveError(
                    Sense.READ_ERROR, str(error)[0].upper() + str(error)[1:]
                ) from error
        return self._stored(cartridge, 1)

    def _next_blocks(self, cartridge: Cartridge, most_bytes: int) -> int:
        count = size = 0
        for number in range(self._position, cartridge.block_count):
            size += cartridge.headers[number].length
            if count and size > most_bytes:
                break
            count += 1
        return count

    def _take_readable(
        self, cartridge: Cartridge, stored: list[StoredRecord]
    ) -> list[StoredRecord]:
        """Return the records before the first that must not enter the engine.

        Raises DriveError if that is the first of all.
        """
        encrypted = cartridge.format is TapeFormat.ENCRYPTED
        for number, record in enumerate(stored):
            if record.header.encrypted is encrypted and (encrypted or record.crc_matches):
                continue
            if number:
                return stored[:number]
            where = f"Block {record.header.block} of {cartridge.volser}"
            if record.header.encrypted and not encrypted:
                raise DriveError(
                    Sense.UNABLE_TO_DECRYPT, f"{where} is encrypted, but the cartridge is not"
                )
            if encrypted:
                raise DriveError(
                    Sense.UNENCRYPTED_DATA, f"{where} is not encrypted, but the cartridge is"
                )
            raise DriveError(Sense.READ_ERROR, f"{where} is damaged: its CRC does not match")
        return stored

    # The encryption hardware

    def _process_empty(self, record: Record) -> Result:
        (result,) = self._engine.process([record])
        if result.status not in (RecordStatus.OK, RecordStatus.TAG_MISMATCH):
            raise self._failed_at(result.status, f"the memory of {self._loaded().volser}")
        return result

    def _process(self, direction: Direction, records: list[Record]) -> list[Result]:
        """Pass records through the engine; add up its counters."""
        if not records:
            return []
        streamed = self._stream(direction, records[0].operation, records)
        return [result for results in streamed for result in results]

    def _stream(
        self, direction: Direction, operation: Operation, records: Iterable[Record]
    ) -> Generator[list[Result], None, None]:
        """Pass records through the engine as they come; add up its counters."""
        before = self._engine.counters()
        promised = PromisedClocks(self._engine.promise)

        def counted() -> Iterator[Record]:
            for record in records:
                promised.add(len(record.data), len(record.aad))
                yield record

        with closing(self._engine.stream(counted())) as streamed:
            yield from streamed
        after = self._engine.counters()
        key = (direction, operation)
        self.figures[key] = _add_counters(before, after, self.figures.get(key))
        self.promised_clocks[key] = self.promised_clocks.get(key, 0.0) + promised.clocks

    def _failed(self, header: RecordHeader, status: RecordStatus) -> DriveError:
        """Return the error for a record that the engine did not process."""
        return self._failed_at(status, f"block {header.block} of {self._loaded().volser}")

    def _failed_at(self, status: RecordStatus, where: str) -> DriveError:
        if status in (RecordStatus.NO_KEY, RecordStatus.ZEROIZED):
            self._key_set = False
            cartridge = self._loaded()
            if self._from_bot is not None:
                self._need_key_to_write(cartridge)
            self._wanted = _translate(cartridge, cartridge.memory.eedks)
            return KeyRequired(
                Sense.KEY_REQUIRED,
                f"The data key that drive {self.serial} had is gone from its hardware before "
                f"{where}",
            )
        return DriveError(
            Sense.ENGINE_FAILURE,
            f"The encryption hardware of drive {self.serial} refused {where} "
            f"({status.name.lower().replace('_', ' ')})",
        )

    def _unreadable(self, record: StoredRecord, status: RecordStatus) -> DriveError:
        header = record.header
        if status is not RecordStatus.TAG_MISMATCH:
            return self._failed(header, status)
        how = (
            "it was altered, moved or put there from elsewhere"
            if record.crc_matches
            else "its CRC does not match either, so it may be plain damage"
        )
        return DriveError(
            Sense.INTEGRITY,
            f"The tag of block {header.block} of {self._loaded().volser} does not match: {how}",
        )

    # Checks of the cartridge

    def _loaded(self) -> Cartridge:
        if self._cartridge is None:
            raise DriveError(Sense.NO_CARTRIDGE, f"There is no cartridge in drive {self.serial}")
        return self._cartridge

    def _writable(self) -> Cartridge:
        cartridge = self._loaded()
        if not cartridge.writable:
            raise DriveError(
                Sense.WRITE_PROTECTED,
                f"Cartridge {cartridge.volser} is in drive {self.serial} for reading",
            )
        return cartridge


def _translate(cartridge: Cartridge, eedks: tuple[bytes, ...]) -> Translate:
    return Translate(cartridge.volser, cartridge.memory.cartridge_id, eedks)


def _to_engine(record: StoredRecord, volser: str) -> Record:
    header = record.header
    if not header.encrypted:
        return Record(Operation.BYPASS, record.data)
    return Record(
        Operation.DECRYPT, record.data, iv=header.iv, aad=header.aad(volser), tag=record.tag
    )


def _add_counters(before: Counters, after: Counters, sum_before: Counters | None) -> Counters:
    return Counters(
        **{
            field.name: getattr(after, field.name)
            - getattr(before, field.name)
            + (getattr(sum_before, field.name) if sum_before else 0)
            for field in fields(Counters)
        }
    )


def _clause(error: object) -> str:
    """Return an error's sentence as a part of another."""
    return str(error).removesuffix(".")
