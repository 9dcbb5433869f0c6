"""OpenSSL's list of errors, one for each thread, which PKCS#11 modules and TLS share.

A module that is built on OpenSSL leaves in it what it found wrong; SoftHSM, when a process opens it
first, that there is no engine. TLS that has to wait for its peer looks there, takes what it finds
for its own, and the connection ends. ``ssl`` does not clear the list before it begins, so we do.
"""

from __future__ import annotations

import _ssl
import ctypes

# The library that ``ssl`` is linked to, or that is built in with it.
_OPENSSL = ctypes.PyDLL(getattr(_ssl, "__file__", None))  # too short to let go of Python's lock

forget = ctypes.PYFUNCTYPE(None)(("ERR_clear_error", _OPENSSL))
"""Clear this thread's list; call it before TLS is read from or written to."""
