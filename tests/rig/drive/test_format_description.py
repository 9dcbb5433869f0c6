"""A cartridge is read by the program in its format description alone.

The program has nothing but the standard library and `cryptography`, and a KEK private key that was
made outside the token and imported there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hsm.keys.eedk import KeyLabel, KeyMode
from rig.cli.cartridge import render, show
from rig.drive import cartridge_format
from rig.ve.catalogue.model import PoolSettings
from tests.support.tape_site import Site, sources
from tests.support.version_1 import as_version_1

TEXT = (Path(__file__).parents[3] / "docs" / "cartridge-format.md").read_text()


def read_by_hand(
    folder: Path, cartridge: Path, kek: Path | None
) -> subprocess.CompletedProcess[str]:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    modules = set(re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE))
    assert modules - sys.stdlib_module_names == {"cryptography"}
    script = folder / "read.py"
    script.write_text(program)
    (folder / "out").mkdir()
    return subprocess.run(
        [sys.executable, "-I", script, cartridge, kek or "-", folder / "out"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


@pytest.mark.rule("KEY-2", "KEY-3", "KEY-6", "BOT-2e", "APP-2f")
@pytest.mark.parametrize("mode", [KeyMode.CLEAR, KeyMode.HASH])
@pytest.mark.parametrize(("place", "version"), [(0, 2), (1, 2), (1, 1)])
def test_format_description_suffices_to_read_with_a_kek(
    site: Site, tmp_path: Path, mode: KeyMode, place: int, version: int
) -> None:
    keys = [KeyLabel("KEK 1"), KeyLabel("KEK 1")]
    keys[place] = KeyLabel(site.outside.label, mode)
    fixture = site.fixture(tmp_path, PoolSettings(4, True, tuple(keys)))
    volumes = fixture.volumes(0, 1, 262144, 300_001)
    volser = fixture.write_from_bot(4, volumes)
    more = fixture.volumes(70_000, 16)
    fixture.sequences.append(volser, more)
    path = fixture.cartridges.path(volser)
    if version == 1:
        as_version_1(path)
    kek = tmp_path / "kek.pem"
    kek.write_bytes(site.outside.pem)
    done = read_by_hand(tmp_path, path, kek)
    assert done.returncode == 0, done.stderr
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    names = [volume.name for volume in (*volumes, *more)]
    assert found == dict(zip(names, sources([*volumes, *more]), strict=True))
    assert str(volumes[0].source) in done.stdout


@pytest.mark.rule("CART-2")
def test_program_in_the_format_description_checks_the_seal(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, PoolSettings(4, True, (KeyLabel(site.outside.label),)))
    path = fixture.cartridges.path(fixture.write_from_bot(4, fixture.volumes(100)))
    (tmp_path / "kek.pem").write_bytes(site.outside.pem)
    data = bytearray(path.read_bytes())
    for at in cartridge_format.SLOT_OFFSETS:
        page = slice(at, at + cartridge_format.PAGE_BYTES)
        memory = cartridge_format.CartridgeMemory.decode(bytes(data[page]))
        data[page] = replace(memory, sequence=memory.sequence + 2).encode()
    path.write_bytes(data)
    done = read_by_hand(tmp_path, path, tmp_path / "kek.pem")
    assert "InvalidTag" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.rule("BOT-3b")
def test_format_description_suffices_to_read_a_clear_cartridge(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, PoolSettings(1))
    volumes = fixture.volumes(5, 300_000)
    volser = fixture.write_from_bot(1, volumes)
    done = read_by_hand(tmp_path, fixture.cartridges.path(volser), None)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / "out" / v.name).read_bytes() for v in volumes] == sources(volumes)


def test_format_description_has_the_numbers_of_the_code() -> None:
    layouts = cartridge_format.LAYOUTS.values()
    for number in (
        *(layout.media_offset for layout in layouts),
        *(layout.page_bytes for layout in layouts),
        *(layout.first_eedk for layout in layouts),
        *(layout.first_eedk + layout.max_eedk_bytes for layout in layouts),
        *(layout.max_eedk_bytes for layout in layouts),
        cartridge_format.MAX_BLOCK_BYTES,
        cartridge_format.MAX_KAD_BYTES,
        cartridge_format.HEADER_BYTES,
    ):
        assert re.search(rf"\b{number}\b", TEXT), number
    for word in (
        cartridge_format.PAGE_MAGIC,
        cartridge_format.RECORD_MAGIC,
        cartridge_format.END_MAGIC,
    ):
        assert f"`{word.decode()}`" in TEXT


# rig cartridge show


@pytest.mark.rule("KEY-6", "KEY-12")
def test_show_prints_labels_or_hashes_and_never_a_key(site: Site, tmp_path: Path) -> None:
    keys = (KeyLabel("KEK 1"), KeyLabel(site.outside.label, KeyMode.HASH))
    fixture = site.fixture(tmp_path, PoolSettings(4, True, keys))
    volser = fixture.write_from_bot(4, fixture.volumes(600_000, 10))
    fixture.sequences.append(volser, fixture.volumes(20))
    shown = show(fixture.cartridges.path(volser))
    assert (shown["volser"], shown["format"]) == (volser, "encrypted")
    first, second = shown["eedks"]
    assert (first["label"], first["kek_sha256"]) == ("KEK 1", None)
    assert second["label"] is None
    assert len(second["kek_sha256"]) == 64
    assert set(first) == set(second)
    assert not any("wrapped" in name for name in first)
    assert shown["logical_volumes"] is None
    assert [r["block"] for r in shown["records"]] == list(range(shown["blocks"])) == list(range(11))
    assert shown["records"][-1]["epoch"] == 2
    assert shown["damage"] is None
    text = render(shown)
    assert "EEDK 1    clear mode, label 'KEK 1'" in text
    assert f"EEDK 2    hash mode, KEK SHA-256 {second['kek_sha256']}" in text
    assert "blocks 1 to 2: data, encrypted, 262,144 bytes each, epoch 1" in text
    assert site.outside.label not in text


def test_show_lists_the_logical_volumes_of_a_clear_cartridge(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, PoolSettings(1))
    (volume,) = fixture.volumes(10)
    odd = volume.source.rename(tmp_path / "odd\x1b[2Jname")
    volser = fixture.write_from_bot(1, [type(volume).of("L00001", odd)])
    shown = show(fixture.cartridges.path(volser))
    (listed,) = shown["logical_volumes"]
    assert (listed["name"], listed["size"], listed["path"]) == ("L00001", 10, str(odd))
    text = render(shown)
    assert "\\x1b[2Jname" in text
    assert "\x1b" not in text


def test_show_reports_damage_and_a_bad_eedk(site: Site, tmp_path: Path) -> None:
    fixture = site.fixture(tmp_path, PoolSettings(1))
    volser = fixture.write_from_bot(1, fixture.volumes(10, 10))
    path = fixture.cartridges.path(volser)
    offset = show(path)["records"][3]["offset"]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"?")
    shown = show(path)
    assert shown["blocks"] == 3
    assert "block 3 of 6" in shown["damage"]
    assert "block 3 of 6" in render(shown)
