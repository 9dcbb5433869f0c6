"""The simulated board and the engine on it, shared by the tests."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.board.sim import SimBoard
from rig.engine.driver import Engine
from tests.support.boards import StartBoard, write_transport_key
from tests.support.nodes import NodeFactory
from tests.support.slow_gates import slow_sources
from tests.support.tape_site import Site, open_site


@pytest.fixture(scope="session")
def transport_key() -> bytes:
    """The key that sealed keys are wrapped under on `sim_board`."""
    return secrets.token_bytes(32)


@pytest.fixture(scope="session")
def transport_key_file(tmp_path_factory: pytest.TempPathFactory, transport_key: bytes) -> Path:
    """The file that the gates of `sim_board` read it from."""
    return write_transport_key(tmp_path_factory.mktemp("transport") / "key.hex", transport_key)


@pytest.fixture(scope="session")
def sim_board(transport_key_file: Path) -> Iterator[SimBoard]:
    """One simulated board for all tests that leave it usable."""
    with SimBoard(transport_key=transport_key_file) as board:
        yield board


@pytest.fixture(scope="session")
def engine(sim_board: SimBoard) -> Engine:
    """The engine on `sim_board`; its plain key port must stay open."""
    return Engine(sim_board)


@pytest.fixture
def start_board() -> Iterator[StartBoard]:
    """Start boards with SimBoard's arguments; close them at the end."""
    boards: list[SimBoard] = []

    def start(**options: object) -> SimBoard:
        boards.append(SimBoard(**options))  # type: ignore[arg-type]  # passed through as they are
        return boards[-1]

    yield start
    for board in boards:
        board.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Gates, secure element, key manager and token together."""
    with open_site(tmp_path_factory.mktemp("site")) as opened:
        yield opened


@pytest.fixture
def node_factory(site: Site, tmp_path: Path) -> Iterator[NodeFactory]:
    """Opens nodes in a folder of the test's own."""
    with ExitStack() as stack:
        yield NodeFactory(site, tmp_path, stack)


@pytest.fixture(scope="session")
def slow_rtl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the gates that is slow on demand."""
    return slow_sources(tmp_path_factory.mktemp("slow"))
