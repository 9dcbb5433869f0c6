"""OpenSSL's error queue, which PKCS#11 modules and TLS share.

Each thread has one. A module that is built on OpenSSL leaves its errors in the queue (SoftHSM, when
a process opens it first: no engine). TLS that must wait for its peer reads the queue, takes an old
error for its own, and the connection ends. ``ssl`` does not clear the queue, so callers do.
"""

from __future__ import annotations

import _ssl
import ctypes

# The library that ``ssl`` is linked to, or that is built in with it.
_OPENSSL = ctypes.PyDLL(getattr(_ssl, "__file__", None))  # too short to release the GIL

clear = ctypes.PYFUNCTYPE(None)(("ERR_clear_error", _OPENSSL))
"""Clear this thread's error queue; call it before TLS is read or written."""
