"""Known-answer files: parsing, mistakes by line, NIST vectors."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from rig.engine.driver import Engine, Operation
from rig.engine.known_answers import KatError, KatReport, read_vectors, run_kat

# NIST SP 800-38D test case 16 (256-bit key, 20 bytes of AAD).
KEY = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
IV = "cafebabefacedbaddecaf888"
PT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
AAD = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
CT = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
)
TAG = "76fc6ece0f4e1768cddf8853bb2d551b"

HEAD = "# CAVS\r\n\r\n[Keylen = 256]\r\n[IVlen = 96]\r\n\r\n"


def encrypt_vector(count: int = 0, **changes: str) -> str:
    fields = {"Key": KEY, "IV": IV, "PT": PT, "AAD": AAD, "CT": CT, "Tag": TAG} | changes
    return f"Count = {count}\n" + "".join(f"{n} = {v}\n" for n, v in fields.items()) + "\n"


def decrypt_vector(count: int = 0, outcome: str = f"PT = {PT}", **changes: str) -> str:
    fields = {"Key": KEY, "IV": IV, "CT": CT, "AAD": AAD, "Tag": TAG} | changes
    lines = "".join(f"{n} = {v}\n" for n, v in fields.items())
    return f"Count = {count}\n{lines}{outcome}\n\n"


def write_vectors(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "vectors.rsp"
    path.write_text(text)
    return path


class TestParser:
    def test_read_vectors_reads_both_layouts(self, tmp_path: Path) -> None:
        text = HEAD + encrypt_vector(3) + decrypt_vector(4) + decrypt_vector(5, "FAIL")
        one, two, three = read_vectors(write_vectors(tmp_path, text))
        assert (one.operation, one.count, one.line) == (Operation.ENCRYPT, 3, 6)
        assert (two.operation, two.plaintext) == (Operation.DECRYPT, bytes.fromhex(PT))
        assert (three.operation, three.plaintext) == (Operation.DECRYPT, None)
        assert one.ciphertext == two.ciphertext == bytes.fromhex(CT)
        assert one.tag == bytes.fromhex(TAG)

    def test_read_vectors_takes_empty_values_and_no_final_newline(self, tmp_path: Path) -> None:
        text = encrypt_vector(PT="", CT="", AAD="").rstrip()
        (vector,) = read_vectors(write_vectors(tmp_path, text))
        assert (vector.plaintext, vector.ciphertext, vector.aad) == (b"", b"", b"")
        assert vector.operation is Operation.ENCRYPT

    def test_read_vectors_takes_variants_of_other_tools(self, tmp_path: Path) -> None:
        """Read a byte order mark, capitals, comments, sections and CR LF."""
        fields = decrypt_vector(5).replace("Count", "COUNT").replace("Key", "KEY")
        text = (
            "\ufeff# of a tool\u2026\r\n[ENCRYPT]\n"
            + encrypt_vector(4).replace(f"IV = {IV}", f"iv={IV}   # 96 bits \u20ac")
            + "[ DECRYPT ]\r\n"
            + fields.replace("\n", "\r\n")
        )
        one, two = read_vectors(write_vectors(tmp_path, text))
        assert (one.operation, one.count, one.iv) == (Operation.ENCRYPT, 4, bytes.fromhex(IV))
        assert (two.operation, two.count, two.key) == (Operation.DECRYPT, 5, bytes.fromhex(KEY))

    def test_read_vectors_takes_the_operation_from_the_section(self, tmp_path: Path) -> None:
        text = f"[ENCRYPT]\n{decrypt_vector()}[DECRYPT]\n{encrypt_vector()}"
        one, two = read_vectors(write_vectors(tmp_path, text))
        assert (one.operation, two.operation) == (Operation.ENCRYPT, Operation.DECRYPT)

    def test_read_vectors_stops_at_the_size_limit_on_a_device(self) -> None:
        with pytest.raises(KatError, match="more than the"):
            read_vectors(Path("/dev/zero"))

    @pytest.mark.parametrize(
        ("text", "line", "complaint"),
        [
            ("hello\n", 1, "expected 'Name = hex digits'"),
            ("[Keylen 256]\n", 1, "expected a length"),
            ("Key = 00\n", 1, "before the first Count"),
            ("FAIL\n", 1, "outside of a vector"),
            ("Count = x\n", 1, "not a number"),
            ("Count = 0\nKey = 0\n", 2, "not a whole number of bytes"),
            ("Count = 0\nKey = 0g\n", 2, "not a whole number of bytes"),
            ("Count = 0\nKey = 00\nKey = 00\n", 3, "occurs twice"),
            ("Count = 0\nWord = 00\n", 2, "expected 'Name = hex digits'"),
            ("\nCount = 0\nKey = 00\n", 2, "lacks AAD, CT, IV, PT, Tag"),
            (encrypt_vector(CT="00"), 1, "differ in length"),
            (decrypt_vector() + "FAIL\n", 1, "both PT and FAIL"),
            (decrypt_vector(0, "FAIL\nFAIL"), 8, "FAIL outside"),
            (decrypt_vector(0, ""), 1, "request file"),
            (encrypt_vector().replace(f"CT = {CT}", "CT = ?"), 6, "request file"),
            (encrypt_vector().replace(f"CT = {CT}\nTag = {TAG}\n", ""), 1, "request file"),
            (f"Count = {'9' * 5000}\n", 1, "up to 9 digits"),
            ("Count = \u00b2\n", 1, "not ASCII"),
            ("[ENCRYPTED]\n", 1, "or \\[ENCRYPT\\] or"),
            (decrypt_vector() + "Key = \u20ac\n", 9, "byte 7 of the line is not ASCII"),
            ("#" * ((1 << 20) + 1), 1, "too long"),
        ],
    )
    def test_read_vectors_names_a_mistake_with_its_line(
        self, tmp_path: Path, text: str, line: int, complaint: str
    ) -> None:
        path = write_vectors(tmp_path, text)
        with pytest.raises(KatError, match=complaint) as caught:
            read_vectors(path)
        assert str(caught.value).startswith(f"{path}:{line}: ")

    def test_read_vectors_refuses_other_files(self, tmp_path: Path) -> None:
        for name, content, complaint in (
            ("empty.rsp", b"# nothing\n", "holds no vectors"),
            ("binary.rsp", b"\xff\xfe\x00", "not a CAVP text file"),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(KatError, match=complaint):
                read_vectors(tmp_path / name)
        with pytest.raises(KatError, match="No such file"):
            read_vectors(tmp_path / "none.rsp")
        with pytest.raises(KatError, match="Is a directory"):
            read_vectors(tmp_path)

    def test_read_vectors_refuses_a_file_that_is_too_large(self, tmp_path: Path) -> None:
        path = tmp_path / "large.rsp"
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(KatError, match="more than the"):
            read_vectors(path)


class TestRun:
    def test_run_kat_counts_passed_failed_and_skipped(self, tmp_path: Path, engine: Engine) -> None:
        text = (
            encrypt_vector(0)
            + decrypt_vector(1)
            + decrypt_vector(2, "FAIL", Tag="00" * 16)
            + encrypt_vector(3, Key="00" * 16)
            + encrypt_vector(4, IV="00")
            + encrypt_vector(5, Tag="00" * 12)
            + encrypt_vector(6, Tag="00" * 12)
            + encrypt_vector(7, AAD="00" * 129)
            + encrypt_vector(8, Tag="00" * 16)
            + encrypt_vector(9, CT="00" * 60)
            + decrypt_vector(10, "PT = " + "00" * 60)
            + decrypt_vector(11, "FAIL")
            + decrypt_vector(12, Tag="00" * 16)
        )
        report = run_kat(read_vectors(write_vectors(tmp_path, text)), engine)
        assert (report.run, report.passed, report.failed) == (8, 3, 5)
        assert not report.good
        assert report.skipped == {
            "key of 128 bits": 1,
            "IV of 8 bits": 1,
            "tag of 96 bits": 2,
            "AAD of 129 bytes": 1,
        }
        assert [(f.count, f.reason) for f in report.failures] == [
            (8, "wrong tag"),
            (9, "wrong ciphertext"),
            (10, "wrong plaintext"),
            (11, "ended with OK, must fail with TAG_MISMATCH"),
            (12, "ended with TAG_MISMATCH"),
        ]
        assert not engine.key_valid

    def test_kat_report_without_a_run_is_not_good(self) -> None:
        assert not KatReport().good
        assert KatReport(run=1, passed=1).good

    @pytest.mark.parametrize("name", ["gcmEncryptExtIV256.rsp", "gcmDecrypt256.rsp"])
    def test_run_kat_passes_the_vectors_of_nist(self, engine: Engine, name: str) -> None:
        spec = find_spec("cryptography_vectors")
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / "ciphers" / "AES" / "GCM" / name
        seen: list[float] = []
        report = run_kat(read_vectors(path), engine, seen.append)
        assert report.failures == []
        assert report.good
        assert report.run == report.passed
        assert report.run + sum(report.skipped.values()) == len(read_vectors(path))
        assert report.run >= 375
        assert sum(seen) == len(read_vectors(path))
