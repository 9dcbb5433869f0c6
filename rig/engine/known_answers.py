"""Known-answer tests: CAVP .rsp files of AES-GCM, run through an engine.

Both layouts are read: encrypt (Key, IV, PT, AAD, CT, Tag) and decrypt (Key, IV, CT, AAD, Tag,
then PT or FAIL). The format is that of NIST's gcmtestvectors.zip, with the variants of other tools:
a byte order mark, names in any case, comments after a value, sections [ENCRYPT] and [DECRYPT].
Other lines in brackets state lengths; only their syntax is checked, since the values have these
lengths anyway.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from hsm.errors import TaperigError
from hsm.files import open_to_read, read_at_most
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

_FIELDS = {name.upper(): name for name in ("Count", "Key", "IV", "PT", "AAD", "CT", "Tag")}
_ANSWERS = {"CT", "Tag", "PT"}
_LENGTH = re.compile(r"\[\s*\w+\s*=\s*\d+\s*\]")
_SECTION = re.compile(r"\[\s*(ENCRYPT|DECRYPT)\s*\]", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,9}")
_DIGITS = re.compile(r"[0-9A-Fa-f]*")


class KatError(TaperigError):
    """A file of vectors cannot be read."""


@dataclass(frozen=True, slots=True)
class Vector:
    """One known answer; `plaintext` is None where decryption must fail."""

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
    """A vector with a wrong answer: its line in the file, and what was wrong."""

    line: int
    count: int
    reason: str


@dataclass(slots=True)
class KatReport:
    """The outcome of all vectors of a file."""

    run: int = 0
    passed: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failures: list[KatFailure] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Return whether no vector failed and at least one ran."""
        return self.failed == 0 and self.run > 0


def nist_files() -> dict[str, Path]:
    """Return NIST's files of the package cryptography_vectors by name.

    Raises KatError when the package is not installed.
    """
    spec = find_spec("cryptography_vectors")
    if spec is None or spec.origin is None:
        raise KatError(
            "NIST's files are in the Python package cryptography-vectors, which is not installed; "
            "install it: pip install cryptography-vectors."
        )
    folder = Path(spec.origin).parent / "ciphers" / "AES" / "GCM"
    return {path.name: path for path in sorted(folder.glob("*.rsp"))}


def find_file(path: Path) -> Path:
    """Return the file, or NIST's file of that name.

    NIST's file is taken for a bare name that is not in the current folder.
    """
    if path.exists() or path.name != str(path):
        return path
    files = nist_files()
    if path.name in files:
        return files[path.name]
    near = difflib.get_close_matches(path.name, files, n=1)
    hint = f"did you mean {near[0]}?" if near else "`rig kat --list` names NIST's."
    raise KatError(f"There is no file {path} here, and none of NIST's has this name; {hint}")


def read_vectors(path: Path) -> list[Vector]:
    """Parse a file; raise KatError with file and line of a mistake."""
    try:
        with open_to_read(path) as file:
            data = read_at_most(file, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KatError(
            f"{path} cannot be read: {error.strerror}; `rig kat --list` names NIST's files."
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise KatError(f"{path} has more than the {MAX_FILE_BYTES} bytes allowed; split it.")
    lines = [_text(path, number, raw) for number, raw in enumerate(_lines(data), 1)]
    vectors: list[Vector] = []
    for vector in _parse(path, lines):
        if len(vectors) == MAX_VECTORS:
            raise KatError(f"{path}:{vector.line}: more than {MAX_VECTORS} vectors; split the file")
        vectors.append(vector)
    if not vectors:
        raise KatError(f"{path} holds no vectors: a CAVP response file has lines 'Count = 0' ...")
    return vectors


def _lines(data: bytes) -> list[bytes]:
    return data.removeprefix(b"\xef\xbb\xbf").splitlines()


def _text(path: Path, number: int, raw: bytes) -> str:
    """Return a line without its comment, which may hold any byte."""
    if len(raw) > MAX_LINE_CHARACTERS:
        raise KatError(f"{path}:{number}: line of {len(raw)} characters is too long")
    try:
        return raw.partition(b"#")[0].decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise KatError(
            f"{path}:{number}: not a CAVP text file: "
            f"byte {error.start + 1} of the line is not ASCII"
        ) from None


def run_kat(
    vectors: Sequence[Vector], engine: Engine, progress: Callable[[float], None] = lambda done: None
) -> KatReport:
    """Run every vector that fits the engine.

    Uses the plain key port, and zeroizes at the end. `progress` is called with 1 for each vector.
    """
    skipped: Counter[str] = Counter()
    report = KatReport()
    loaded: bytes | None = None
    try:
        for vector in vectors:
            progress(1)
            reason = _skip_reason(vector, engine)
            if reason is not None:
                skipped[reason] += 1
                continue
            if vector.key != loaded:
                engine.load_plain_key(vector.key)
                loaded = vector.key
            report.run += 1
            failure = _check_answer(vector, engine)
            if failure is None:
                report.passed += 1
            else:
                report.failed += 1
                report.failures.append(KatFailure(vector.line, vector.count, failure))
    finally:
        engine.zeroize()
    report.skipped = dict(skipped)
    return report


def _skip_reason(vector: Vector, engine: Engine) -> str | None:
    """Return why the engine cannot run this vector; None when it can."""
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


def _check_answer(vector: Vector, engine: Engine) -> str | None:
    """Return what is wrong with the engine's answer; None when it is right."""
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


@dataclass(slots=True)
class _Draft:
    """A vector that is being read."""

    line: int
    count: int
    section: Operation | None
    fields: dict[str, bytes] = field(default_factory=dict)
    failing: bool = False


def _parse(path: Path, lines: list[str]) -> Iterator[Vector]:
    draft: _Draft | None = None
    section: Operation | None = None
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}:"
        if not line:
            continue
        if line.startswith("["):
            if found := _SECTION.fullmatch(line):
                encrypts = found[1].upper() == "ENCRYPT"
                section = Operation.ENCRYPT if encrypts else Operation.DECRYPT
            elif not _LENGTH.fullmatch(line):
                raise KatError(
                    f"{place} expected a length as in '[Keylen = 256]', or [ENCRYPT] or [DECRYPT]"
                )
            continue
        if line.upper() == "FAIL":
            if draft is None or draft.failing:
                raise KatError(f"{place} FAIL outside of a vector")
            draft.failing = True
            continue
        word, equals, value = (part.strip() for part in line.partition("="))
        name = _FIELDS.get(word.upper(), "")
        if not equals or not name:
            raise KatError(
                f"{place} expected 'Name = hex digits' with one of "
                f"{', '.join(sorted(_FIELDS.values()))}, or FAIL"
            )
        if name == "Count":
            if draft is not None:
                yield _vector(path, draft)
            if not _COUNT.fullmatch(value):
                raise KatError(f"{place} Count is not a number of up to 9 digits")
            draft = _Draft(number, int(value), section)
            continue
        if draft is None:
            raise KatError(f"{place} {name} before the first Count")
        if name in draft.fields:
            raise KatError(f"{place} {name} occurs twice in one vector")
        if value == "?" and name in _ANSWERS:
            raise KatError(f"{place} {name} is open: {_REQUEST}")
        if len(value) % 2 or not _DIGITS.fullmatch(value):
            raise KatError(f"{place} {name} is not a whole number of bytes in hex digits")
        draft.fields[name] = bytes.fromhex(value)
    if draft is not None:
        yield _vector(path, draft)


_REQUEST = "a request file (.req) has no answers to compare; take the response file (.rsp)"


def _vector(path: Path, draft: _Draft) -> Vector:
    fields, failing = draft.fields, draft.failing
    names = list(fields)
    wanted = set(_FIELDS.values()) - {"Count"} - ({"PT"} if failing else set())
    missing = sorted(wanted - fields.keys())
    if missing or (failing and "PT" in fields):
        what = f"lacks {', '.join(missing)}" if missing else "has both PT and FAIL"
        if set(missing) in ({"CT", "Tag"}, {"PT"}):
            what += f": {_REQUEST}"
        raise KatError(f"{path}:{draft.line}: the vector that begins here {what}")
    # Without a section: an encrypt file gives the plaintext first, a decrypt file the ciphertext.
    operation = draft.section
    if operation is None or failing:
        encrypts = not failing and names.index("PT") < names.index("CT")
        operation = Operation.ENCRYPT if encrypts else Operation.DECRYPT
    plaintext = None if failing else fields["PT"]
    if plaintext is not None and len(plaintext) != len(fields["CT"]):
        raise KatError(
            f"{path}:{draft.line}: PT and CT of the vector that begins here differ in length"
        )
    return Vector(
        line=draft.line,
        count=draft.count,
        operation=operation,
        key=fields["Key"],
        iv=fields["IV"],
        aad=fields["AAD"],
        plaintext=plaintext,
        ciphertext=fields["CT"],
        tag=fields["Tag"],
    )
