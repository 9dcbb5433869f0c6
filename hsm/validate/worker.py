"""The child process that calls the module and runs requested probes.

The request is a line of JSON on standard input; PINs come in no other way. Answers are lines of
JSON to the file descriptor of the first argument, since a module may write to standard output. When
the module crashes this process, the last line tells the parent at which probe.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from hsm.crash_log import run_main
from hsm.errors import TaperigError
from hsm.validate.findings import run_probe
from hsm.validate.probes import PROBES
from hsm.validate.raw_pkcs11 import RawModule, RefusedCallError
from hsm.validate.session import Pins, TokenUnderTest
from hsm.validate.tagged_objects import find_tagged, remove_leftovers, remove_objects_of


def main() -> int:
    """Run the probes of one request."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")

    def send(**message: Any) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    request = json.loads(sys.stdin.readline())
    try:
        token = _open(request)
    except TaperigError as error:
        send(error=str(error))
        return 2
    except OSError as error:
        send(error=f"The PKCS#11 module {request['module']} cannot be loaded: {error}.")
        return 2
    except RefusedCallError as refusal:
        send(refused=refusal.function, code=refusal.code)
        return 2
    send(leftovers=remove_leftovers(token.session))
    for name in request["probes"]:
        send(begin=name)
        answer = run_probe(PROBES[name], token)
        send(
            status=answer.status.value,
            does=answer.does,
            code=answer.code,
            rate=answer.rate,
        )
    try:
        left = _clean(token)
    except RefusedCallError:
        if not request["probes"]:
            raise
        # The probes corrupted the module in this process; the next worker cleans up.
        send(end=True)
        return 0
    send(left=left)
    token.session.logout()
    token.session.close()
    token.library.finalize()
    send(end=True)
    return 0


def _clean(token: TokenUnderTest) -> int:
    """Destroy this worker's objects; return how many tagged ones are left."""
    try:
        remove_objects_of(token.session, token.owner)
    except RefusedCallError:  # the last probe closed the session
        token.reopen()
        remove_objects_of(token.session, token.owner)
    return len(find_tagged(token.session))


def _open(request: dict[str, Any]) -> TokenUnderTest:
    library = RawModule(Path(request["module"]), locking=request["locking"])
    pins = Pins(request["user_pin"], request["officer_pin"])
    removal = request["removal"]
    return TokenUnderTest(
        library,
        library.slot_of(request["label"]),
        pins,
        request["label"],
        None if removal is None else (removal[0], removal[1]),
    )


if __name__ == "__main__":
    run_main(main, "The validation worker")
