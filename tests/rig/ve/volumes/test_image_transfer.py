"""Standard labels, and logical volumes that come and go as tape images."""

import datetime
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.ve.volumes.awstape import AwsTapeError, read_image
from rig.ve.volumes.image_transfer import (
    DataSet,
    export_image,
    inspect_image,
    is_image,
    volume_of_image,
)
from rig.ve.volumes.logical_volume import VolumeError
from rig.ve.volumes.standard_labels import (
    DataSetLabel,
    LabelError,
    VolumeLabel,
    is_label,
    parse_label,
)
from tests.support.tape_images import MARK, labelled, write_tape

BLANK = Path(__file__).parents[4] / "fixtures" / "tapes" / "blank.aws"  # made by Hercules' hetinit
DAY = datetime.date(2007, 6, 1)


def ebcdic(text: str) -> bytes:
    return f"{text:<80}".encode("cp037")


# Labels

LETTERS = st.characters(min_codepoint=0x41, max_codepoint=0x5A)


@given(
    kind=st.sampled_from(["HDR1", "EOF1", "EOV1"]),
    name=st.text(LETTERS, min_size=1, max_size=17),
    volser=st.text(LETTERS, min_size=6, max_size=6),
    sequence=st.integers(1, 9999),
    blocks=st.integers(0, 9_999_999_999),
    created=st.none() | st.dates(datetime.date(1900, 1, 2), datetime.date(2199, 12, 31)),
)
def test_data_set_label_is_read_as_written(
    kind: str,
    name: str,
    volser: str,
    sequence: int,
    blocks: int,
    created: datetime.date | None,
) -> None:
    label = DataSetLabel(kind, name, volser, sequence, blocks, created)
    assert len(label.encode()) == 80
    assert parse_label(label.encode()) == label


def test_labels_have_the_fields_of_the_standard() -> None:
    assert VolumeLabel("TAP123", "OWNER").encode() == ebcdic(f"VOL1TAP123{'':<31}OWNER")
    text = DataSetLabel("HDR1", "PAYROLL.MASTER", "TAP123", 2, 0, DAY).encode().decode("cp037")
    assert text[4:21] == "PAYROLL.MASTER   "
    assert text[21:27] == "TAP123"
    assert text[31:35] == "0002"
    assert text[41:47] == "007152"  # century 0 is 20, day 152 is 1 June


def test_data_set_label_keeps_the_end_of_a_long_name() -> None:
    label = DataSetLabel("HDR1", "SITE.PAYROLL.MASTER.FILE", "TAP123", 1, 0)
    parsed = parse_label(label.encode())
    assert isinstance(parsed, DataSetLabel)
    assert parsed.name == "AYROLL.MASTER.FILE"[-17:]


@pytest.mark.parametrize(
    ("block", "what"),
    [
        (ebcdic("VOL1      "), "names the volume ''"),
        (ebcdic("VOL1tap123"), "names the volume 'tap123'"),
        (ebcdic(f"HDR1{'A':<17}TAP1230001x001"), "data set sequence .* 'x001'"),
        (ebcdic(f"EOF1{'A':<17}TAP12300010001{'':<6} 00000 000000x00000"), "block count"),
        (ebcdic(f"HDR1{'A':<17}TAP12300010001{'':<6}007400"), "date .* '007400'"),
        (ebcdic(f"HDR1{'A':<17}TAP12300010001{'':<6}907100"), "date .* '907100'"),
    ],
)
def test_label_error_names_the_wrong_field(block: bytes, what: str) -> None:
    with pytest.raises(LabelError, match=what):
        parse_label(block)


@given(block=st.binary(min_size=76, max_size=76), kind=st.sampled_from(["VOL1", "HDR1", "EOF1"]))
def test_label_of_any_bytes_is_read_or_refused(block: bytes, kind: str) -> None:
    try:
        parse_label(kind.encode("cp037") + block)
    except LabelError:
        return


def test_block_that_is_not_a_label_is_not_parsed() -> None:
    assert parse_label(b"VOL1") is None
    assert parse_label(ebcdic("DATA")) is None
    assert not is_label(ebcdic("DATA"))
    assert is_label(ebcdic("UHL1"))
    assert not is_label(b"x")


# Images


def test_image_content_is_known_by_its_labels(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", *labelled("PAY001", "PAYROLL", b"one", b"three"))
    found = inspect_image(path)
    assert found.volser == "PAY001"
    assert found.data_sets == (DataSet("PAYROLL", 2, 8),)
    assert (found.blocks, found.bytes) == (7, 5 * 80 + 8)


def test_data_block_that_looks_like_a_label_is_data(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", *labelled("PAY001", "A", ebcdic("EOF1"), ebcdic("HDR1")))
    assert inspect_image(path).data_sets == (DataSet("A", 2, 160),)


def test_initialized_tape_has_no_data_set() -> None:
    found = inspect_image(BLANK)
    assert (found.volser, found.data_sets) == ("TAP123", ())


def test_volume_of_an_image_has_the_name_of_its_label(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", *labelled("PAY001", "A", b"x"))
    assert volume_of_image(path).name == "PAY001"
    assert volume_of_image(path, "L00001").name == "L00001"


def test_image_without_label_needs_a_name(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", b"data", MARK, MARK)
    assert inspect_image(path).volser is None
    with pytest.raises(VolumeError, match="no VOL1 label; give the name"):
        volume_of_image(path)
    assert volume_of_image(path, "L00001").name == "L00001"


@pytest.mark.parametrize(
    ("blocks", "what"),
    [
        (labelled("PAY001", "A", b"x", b"y", count=3), "counts 3 blocks, but 2 are there"),
        (labelled("PAY001", "A", b"x")[:-5], "data set A has no EOF1"),
        ([VolumeLabel("PAY001").encode(), b"data"], "data where only labels can be"),
        (
            [VolumeLabel("PAY001").encode(), DataSetLabel("EOF1", "A", "PAY001", 1, 0).encode()],
            "EOF1 of A without its HDR1",
        ),
        ([], "has no block"),
    ],
)
def test_image_with_labels_that_do_not_fit_is_refused(
    tmp_path: Path, blocks: list[bytes | None], what: str
) -> None:
    with pytest.raises(AwsTapeError, match=what):
        inspect_image(write_tape(tmp_path / "t.aws", *blocks))


def test_export_writes_a_plain_file_as_a_labelled_tape(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(range(256)) * 300)
    target = tmp_path / "out.aws"
    export_image("L00001", data, target, DAY)
    assert inspect_image(target).volser == "L00001"
    assert inspect_image(target).data_sets == (DataSet("TAPERIG.L00001", 3, 76_800),)
    blocks = list(read_image(target))
    assert b"".join(block for block in blocks[4:7] if block) == data.read_bytes()
    assert not is_image(data)


def test_export_writes_an_image_as_it_was_imported(tmp_path: Path) -> None:
    path = write_tape(tmp_path / "t.aws", *labelled("PAY001", "A", b"x"))
    export_image("PAY001", path, tmp_path / "out.aws", DAY)
    assert (tmp_path / "out.aws").read_bytes() == path.read_bytes()


@pytest.mark.skipif(shutil.which("hetmap") is None, reason="needs hetmap, of Debian's hercules")
def test_export_is_read_by_hercules(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(range(250)) * 400)
    export_image("L00001", data, tmp_path / "out.aws", DAY)
    output = subprocess.run(
        ["hetmap", "-a", tmp_path / "out.aws"], check=True, capture_output=True, text=True
    ).stdout
    assert "'TAPERIG.L00001   '" in output
    assert "'L00001'" in output
    assert "'000004'" in output  # blocks, in EOF1
    extracted = tmp_path / "extracted"
    subprocess.run(
        ["hetget", tmp_path / "out.aws", extracted, "1", "U", "0", "32760"],
        check=True,
        capture_output=True,
    )
    assert extracted.read_bytes() == data.read_bytes()
