"""NIST's AES-256-GCM vectors through the engine."""

from typing import Any

from engine import EngineDriver, Op, Record, Result, Status, engine_test
from nist_vectors import read_cavp

# 15 vectors for each of 5 text lengths and 5 AAD lengths.
VECTORS = 375


def _vectors(name: str) -> list[dict[str, bytes]]:
    """Return the vectors with 12-byte IV and 16-byte tag; no PT: must fail."""
    chosen = []
    for _, fields in read_cavp(f"ciphers/AES/GCM/{name}.rsp"):
        vector = {k: bytes.fromhex(v) for k, v in fields.items() if k not in ("Count", "FAIL")}
        if len(vector["IV"]) == 12 and len(vector["Tag"]) == 16:
            assert ("FAIL" in fields) == ("PT" not in vector)
            chosen.append(vector)
    return chosen


async def _run(engine: EngineDriver, key: bytes, record: Record) -> Result:
    await engine.load_plain(key)
    (result,) = await engine.process([record], pad=0xA5)
    return result


@engine_test
async def encrypt(dut: Any) -> None:
    engine = EngineDriver(dut)
    await engine.power_on()
    vectors = _vectors("gcmEncryptExtIV256")
    assert len(vectors) == VECTORS
    for v in vectors:
        result = await _run(engine, v["Key"], Record(Op.ENCRYPT, v["PT"], v["IV"], v["AAD"]))
        assert result.status == Status.OK
        assert (result.data, result.tag) == (v["CT"], v["Tag"]), v


@engine_test
async def decrypt(dut: Any) -> None:
    engine = EngineDriver(dut)
    await engine.power_on()
    vectors = _vectors("gcmDecrypt256")
    assert len(vectors) == VECTORS
    failing = 0
    for v in vectors:
        record = Record(Op.DECRYPT, v["CT"], v["IV"], v["AAD"], v["Tag"])
        result = await _run(engine, v["Key"], record)
        if "PT" not in v:
            failing += 1
            assert result.status == Status.TAG_MISMATCH, v
            assert result.data == b""
        else:
            assert result.status == Status.OK, v
            assert result.data == v["PT"], v
    assert failing > 100, "the file no longer holds the failing vectors"
