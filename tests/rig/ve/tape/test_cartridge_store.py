"""The files of a node's cartridges."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig.drive.cartridge import Cartridge
from rig.drive.cartridge_format import CartridgeError
from rig.ve.tape.cartridge_store import CartridgeStore, CartridgeStoreError


def test_cartridge_store_refuses_a_cartridge_in_the_place_of_another(tmp_path: Path) -> None:
    store = CartridgeStore(tmp_path)
    for volser in ("ABC123", "ABC124"):
        Cartridge.create(store.path(volser), volser)
    store.path("ABC123").replace(store.path("ABC124"))
    with pytest.raises(CartridgeStoreError, match="is ABC123, not ABC124: files were exchanged"):
        store.mounted("ABC124", write=False).__enter__()
    with pytest.raises(CartridgeError, match="No such file"):
        store.mounted("ABC123", write=False).__enter__()
