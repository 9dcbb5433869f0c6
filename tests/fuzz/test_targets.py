"""The fuzz targets on their corpus, on damaged copies, on any bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm.ekm.protocol import messages
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS, site

CORPUS = Path(__file__).parent / "corpus"
QUICK = settings(max_examples=60, deadline=None)


def corpus(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_survived(target: str) -> None:
    inputs = corpus(target)
    assert inputs
    for data in [*inputs, *seeds()[target]]:
        TARGETS[target](data)


def test_the_corpus_gets_past_the_certificates() -> None:
    """An exchange is challenged: what is behind the drive table is fuzzed."""
    answers = [messages.decode(a.frame) for a in site().serve(corpus("stream")[0]) if a.frame]
    assert [type(answer) for answer in answers] == [messages.Challenge]


@pytest.mark.parametrize("target", TARGETS)
@QUICK
@given(data=st.binary(max_size=3000))
def test_anything_is_survived(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@QUICK
@given(choice=st.data())
def test_damaged_inputs_are_survived(target: str, choice: st.DataObject) -> None:
    data = bytearray(choice.draw(st.sampled_from(corpus(target))))
    for _ in range(choice.draw(st.integers(1, 4))):
        at = choice.draw(st.integers(0, len(data)))
        match choice.draw(st.sampled_from(("change", "cut", "insert", "repeat"))):
            case "change" if at < len(data):
                data[at] = choice.draw(st.integers(0, 255))
            case "cut":
                del data[at : at + choice.draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = choice.draw(st.binary(min_size=1, max_size=20))
            case _:
                data[at:at] = data[at : at + 100]
    TARGETS[target](bytes(data))
