"""Pools and the library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hsm.keys.eedk import KeyLabel
from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import CartridgeError, TapeFormat
from rig.ve.catalogue.pools import Pool, PoolError, Pools
from rig.ve.tape.library import CATALOGUE, Library, LibraryError


@pytest.mark.rule("POOL-1")
def test_a_pool_has_encryption_and_up_to_two_labels() -> None:
    keys = (KeyLabel("KEK 1"), KeyLabel("KEK 2"))
    pools = Pools([Pool(3, True, keys), Pool(1)])
    assert [pool.number for pool in pools] == [1, 3]
    assert (pools[1].encrypt, pools[3].encrypt) == (False, True)
    assert pools[3].keys == keys
    pools.set(Pool(3))
    assert not pools[3].encrypt
    with pytest.raises(PoolError, match=r"Pool 2 is not configured; configured: 1, 3"):
        pools[2]


@pytest.mark.rule("POOL-6")
@pytest.mark.parametrize("number", [0, 33, -1])
def test_pools_are_numbered_1_to_32(number: int) -> None:
    with pytest.raises(PoolError, match="1 to 32"):
        Pool(number)
    assert Pool(1).number == 1
    assert Pool(32).number == 32


@pytest.mark.parametrize("count", [0, 3])
def test_a_pool_that_encrypts_has_one_or_two_keys(count: int) -> None:
    with pytest.raises(PoolError, match=f"has {count} key labels"):
        Pool(1, True, (KeyLabel("KEK 1"),) * count)


def test_scratch_is_chosen_by_pool_and_taken_in_when_there_is_none(tmp_path: Path) -> None:
    library = Library(tmp_path / "cartridges")
    assert library.scratch(1) == "TAP001"
    assert library.scratch(1) == "TAP001"
    assert library.scratch(2) == "TAP002"
    library.mark_written("TAP001")
    assert library.scratch(1) == "TAP003"
    library.return_to_scratch("TAP001")
    assert library.scratch(1) == "TAP001"
    assert [v.volser for v in library.volumes(1)] == ["TAP001", "TAP003"]


def test_the_catalogue_outlives_the_library(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add("ABC123", 7)
    library.add("ABC124", 7)
    library.mark_written("ABC123")
    again = Library(tmp_path)
    assert again.volumes() == library.volumes()
    assert not again["ABC123"].scratch
    assert again["ABC124"].scratch
    with again.mounted("ABC123", write=False) as cartridge:
        assert cartridge.format is TapeFormat.BLANK


def test_one_mount_at_a_time(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add("ABC123", 1)
    library.add("ABC124", 1)
    with (
        library.mounted("ABC123", write=False),
        pytest.raises(LibraryError, match="ABC123 is mounted; demount it first"),
    ):
        library.mounted("ABC124", write=False).__enter__()
    with library.mounted("ABC124", write=True):
        pass


def test_a_cartridge_in_anothers_place_is_noticed(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add("ABC123", 1)
    library.add("ABC124", 1)
    library.path("ABC123").replace(library.path("ABC124"))
    with pytest.raises(LibraryError, match="is ABC123, not ABC124: files were exchanged"):
        library.mounted("ABC124", write=False).__enter__()
    with pytest.raises(CartridgeError, match="No such file"):
        library.mounted("ABC123", write=False).__enter__()


def test_volsers_are_checked_known_and_never_given_twice(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add("ABC123", 1)
    with pytest.raises(LibraryError, match="has a cartridge ABC123 already"):
        library.add("ABC123", 2)
    with pytest.raises(CartridgeError, match="VOLSER"):
        library.add("../../x", 1)
    with pytest.raises(LibraryError, match="no cartridge 'ABC999'"):
        library.path("ABC999")
    Cartridge.create(tmp_path / "TAP001.tape", "TAP001")  # a file that the catalogue lacks
    assert library.scratch(2) == "TAP002"


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"version": 2, "volumes": {}}',
        '{"version": 1, "volumes": []}',
        '{"version": 1, "volumes": {"ABC123": 1}}',
        '{"version": 1, "volumes": {"ABC123": {"pool": "1", "scratch": true}}}',
        '{"version": 1, "volumes": {"../../": {"pool": 1, "scratch": true}}}',
        '{"version": 1, "volumes": {"ABC123": {"pool": 1}}}',
    ],
)
def test_a_damaged_catalogue_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / CATALOGUE).write_text(text)
    with pytest.raises(LibraryError, match="is damaged"):
        Library(tmp_path)


def test_a_catalogue_half_written_leaves_the_old_one(tmp_path: Path) -> None:
    library = Library(tmp_path)
    library.add("ABC123", 1)
    (tmp_path / "library.new").write_text('{"version": 1, "vol')
    assert [v.volser for v in Library(tmp_path).volumes()] == ["ABC123"]
    library.mark_written("ABC123")
    assert json.loads((tmp_path / CATALOGUE).read_text())["volumes"]["ABC123"] == {
        "pool": 1,
        "scratch": False,
    }


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraryError, match="Cannot make the cartridge folder"):
        Library(tmp_path / "file" / "cartridges")
