"""Known-answer tests: CAVP .rsp files of AES-GCM, run through an engine.

Both layouts are taken: encrypt (Key, IV, PT, AAD, CT, Tag) and decrypt (Key, IV, CT, AAD, Tag,
then PT or FAIL).  The format is that of NIST's gcmtestvectors.zip; bracketed lines are lengths,
which the values themselves show, and are only checked for shape.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hsm.errors import TaperigError
from rig.engine.driver import (
    IV_BYTES,
    KEY_BYTES,
    TAG_BYTES,
    Engine,
    Operation,
    Record,
    RecordStatus,
)

MAX_FILE_BYTES = 64 << 20
MAX_LINE_CHARACTERS = 1 << 20
MAX_VECTORS = 1_000_000

_FIELDS = frozenset({"Count", "Key", "IV", "PT", "AAD", "CT", "Tag"})
_SECTION = re.compile(r"\[\s*\w+\s*=\s*\d+\s*\]\Z")


class KatError(TaperigError):
    """A file of vectors that cannot be read."""


@dataclass(frozen=True, slots=True)
class Vector:
    """One known answer.  `plaintext` is None where decryption must fail."""

    line: int
    count: int
    operation: Operation
    key: bytes
    iv: bytes
    aad: bytes
    plaintext: bytes | None
    ciphertext: bytes
    tag: bytes


@dataclass(frozen=True, slots=True)
class KatFailure:
    """A vector whose answer was wrong: where it is in the file, and what was wrong."""

    line: int
    count: int
    reason: str


@dataclass(slots=True)
class KatReport:
    """What became of a file's vectors."""

    run: int = 0
    passed: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failures: list[KatFailure] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """None failed and at least one ran."""
        return self.failed == 0 and self.run > 0


def read_vectors(path: Path) -> list[Vector]:
    """Parse a file; raise KatError naming file and line where it is not as it should be."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise KatError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed")
        text = path.read_text("ascii")
    except OSError as error:
        raise KatError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise KatError(f"{path} is not a CAVP text file: byte {error.start} is not ASCII") from None
    vectors = list(_parse(path, text.splitlines()))
    if not vectors:
        raise KatError(f"{path} holds no vectors: a CAVP response file has lines 'Count = 0' ...")
    return vectors


def run_kat(
    path: Path, engine: Engine, progress: Callable[[int, int], None] | None = None
) -> KatReport:
    """Run every vector of the file that fits the engine through its gates.

    Uses the plain key port, and zeroizes at the end.  `progress` is told vectors done and all.
    """
    vectors = read_vectors(path)
    skipped: Counter[str] = Counter()
    report = KatReport()
    loaded: bytes | None = None
    try:
        for done, vector in enumerate(vectors):
            if progress is not None:
                progress(done, len(vectors))
            reason = _unfit(vector, engine)
            if reason is not None:
                skipped[reason] += 1
                continue
            if vector.key != loaded:
                engine.load_plain_key(vector.key)
                loaded = vector.key
            report.run += 1
            wrong = _wrong_answer(vector, engine)
            if wrong is None:
                report.passed += 1
            else:
                report.failed += 1
                report.failures.append(KatFailure(vector.line, vector.count, wrong))
    finally:
        engine.zeroize()
    if progress is not None:
        progress(len(vectors), len(vectors))
    report.skipped = dict(skipped)
    return report


def _unfit(vector: Vector, engine: Engine) -> str | None:
    """Why the engine cannot take this vector; None when it can."""
    if len(vector.key) != KEY_BYTES:
        return f"key of {8 * len(vector.key)} bits"
    if len(vector.iv) != IV_BYTES:
        return f"IV of {8 * len(vector.iv)} bits"
    if len(vector.tag) != TAG_BYTES:
        return f"tag of {8 * len(vector.tag)} bits"
    if len(vector.aad) > engine.max_aad_bytes:
        return f"AAD of {len(vector.aad)} bytes"
    if len(vector.ciphertext) > engine.max_data_bytes:
        return f"data of {len(vector.ciphertext)} bytes"
    return None


def _wrong_answer(vector: Vector, engine: Engine) -> str | None:
    encrypt = vector.operation is Operation.ENCRYPT
    data = (vector.plaintext or b"") if encrypt else vector.ciphertext
    record = Record(vector.operation, data, vector.iv, vector.aad, b"" if encrypt else vector.tag)
    (result,) = engine.process([record])
    if vector.plaintext is None:
        if result.status is not RecordStatus.TAG_MISMATCH:
            return f"ended with {result.status.name}, must fail with TAG_MISMATCH"
        return "released data of a failed record" if result.data else None
    if result.status is not RecordStatus.OK:
        return f"ended with {result.status.name}"
    if result.data != (vector.ciphertext if encrypt else vector.plaintext):
        return "wrong ciphertext" if encrypt else "wrong plaintext"
    if encrypt and result.tag != vector.tag:
        return "wrong tag"
    return None


def _parse(path: Path, lines: list[str]) -> Iterator[Vector]:
    fields: dict[str, bytes] = {}
    start = count = number = 0
    failing = inside = False
    for number, raw in enumerate([*lines, "Count = 0"], 1):
        last = number == len(lines) + 1
        if len(raw) > MAX_LINE_CHARACTERS:
            raise KatError(f"{path}:{number}: line of {len(raw)} characters is too long")
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if not _SECTION.match(line):
                raise KatError(f"{path}:{number}: expected a length as in '[Keylen = 256]'")
            continue
        if line == "FAIL":
            if not inside or failing:
                raise KatError(f"{path}:{number}: FAIL outside of a vector")
            failing = True
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or name not in _FIELDS:
            raise KatError(
                f"{path}:{number}: expected 'Name = hex digits' with one of "
                f"{', '.join(sorted(_FIELDS))}, or FAIL"
            )
        if name == "Count":
            if inside:
                yield _vector(path, start, count, fields, failing)
            if last:
                return
            if not value.isdigit():
                raise KatError(f"{path}:{number}: Count is not a number")
            fields, start, count, failing, inside = {}, number, int(value), False, True
            continue
        if not inside:
            raise KatError(f"{path}:{number}: {name} before the first Count")
        if name in fields:
            raise KatError(f"{path}:{number}: {name} occurs twice in one vector")
        if len(value) % 2 or not re.fullmatch(r"[0-9A-Fa-f]*", value):
            raise KatError(f"{path}:{number}: {name} is not a whole number of bytes in hex digits")
        fields[name] = bytes.fromhex(value)


def _vector(path: Path, line: int, count: int, fields: dict[str, bytes], failing: bool) -> Vector:
    names = list(fields)
    wanted = _FIELDS - {"Count"} - ({"PT"} if failing else set())
    missing = sorted(wanted - fields.keys())
    if missing or (failing and "PT" in fields):
        what = f"lacks {', '.join(missing)}" if missing else "has both PT and FAIL"
        raise KatError(f"{path}:{line}: the vector that begins here {what}")
    # An encrypt file gives the plaintext first, a decrypt file the ciphertext.
    encrypt = not failing and names.index("PT") < names.index("CT")
    plaintext = None if failing else fields["PT"]
    if plaintext is not None and len(plaintext) != len(fields["CT"]):
        raise KatError(f"{path}:{line}: PT and CT of the vector that begins here differ in length")
    return Vector(
        line=line,
        count=count,
        operation=Operation.ENCRYPT if encrypt else Operation.DECRYPT,
        key=fields["Key"],
        iv=fields["IV"],
        aad=fields["AAD"],
        plaintext=plaintext,
        ciphertext=fields["CT"],
        tag=fields["Tag"],
    )
