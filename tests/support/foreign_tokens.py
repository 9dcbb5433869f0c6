"""Real tokens other than SoftHSM: opencryptoki and NSS softokn.

Both use fixed paths of the system (opencryptoki a daemon and /var/lib, p11-kit its folder of
modules). So each command runs in namespaces of its own, where these paths are a folder of the test.
The system's own configuration is neither read nor written, and tests may run in parallel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PIN = "12345678"
PIN_VARIABLE = "TAPERIG_TEST_PIN"
SO_PIN = "76543210"
SO_PIN_VARIABLE = "TAPERIG_TEST_SO_PIN"

_OPENCRYPTOKI = r"""
set -e
folder=$1; shift
mount --make-rprivate /
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p "$folder/lib/swtok/TOK_OBJ" "$folder/lock/swtok" /run/lock/opencryptoki
mount --bind "$folder/lib" /var/lib/opencryptoki
mount --bind "$folder/lock" /run/lock/opencryptoki
printf 'version opencryptoki-3.8\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >"$folder/conf"
mount --bind "$folder/conf" /etc/opencryptoki/opencryptoki.conf
chgrp -R pkcs11 /run/lock/opencryptoki /var/lib/opencryptoki
chmod -R 770 /run/lock/opencryptoki /var/lib/opencryptoki
pkcsslotd >/dev/null 2>&1
for _ in $(seq 100); do [ -S /run/pkcsslotd.socket ] && break; sleep 0.05; done
exec "$@"
"""
_OPENCRYPTOKI_MAKE = rf"""
set -e
printf '87654321\ntaperig-ock\n' | pkcsconf -I -c 3
printf '87654321\n{SO_PIN}\n{SO_PIN}\n' | pkcsconf -P -c 3
printf '{SO_PIN}\n{PIN}\n{PIN}\n' | pkcsconf -u -c 3
"""
_NSS = r"""
set -e
folder=$1; shift
mount --make-rprivate /
mount --bind "$folder/modules" /usr/share/p11-kit/modules
export NSS_MAX_MP_PBE_ITERATION_COUNT=2
exec "$@"
"""
_NSS_MAKE = f"""
import sys
import pkcs11
slots = pkcs11.lib(sys.argv[1]).get_slots(token_present=True)
(token,) = (slot.get_token() for slot in slots if slot.get_token().label == "taperig-nss")
with token.open(rw=True, so_pin="") as session:
    session.init_pin("{PIN}")
"""
_ALONE = ["unshare", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]


@dataclass(frozen=True)
class ForeignToken:
    """A token other than SoftHSM; PIN_VARIABLE holds its user's PIN."""

    name: str
    module: Path
    label: str
    folder: Path
    script: str
    accept: tuple[str, ...]
    """The risks that a lab has to accept."""
    pins: dict[str, str] = field(default_factory=lambda: {PIN_VARIABLE: PIN})
    alone: bool = True
    """Whether it needs namespaces of its own."""

    def run(
        self, *command: str | Path, timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command where the token is; return the finished process."""
        entered = [
            *(_ALONE if self.alone else []),
            "bash",
            "-c",
            self.script,
            "bash",
            str(self.folder),
        ]
        return subprocess.run(
            [*entered, *map(str, command)],
            env={**os.environ, **self.pins, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def opencryptoki(folder: Path) -> ForeignToken:
    """Make an opencryptoki software token, or skip and name what is missing."""
    _need_namespaces()
    module = _library("opencryptoki/libopencryptoki.so.0", "opencryptoki")
    _library("opencryptoki/stdll/libpkcs11_sw.so", "opencryptoki")
    for program in ("pkcsslotd", "pkcsconf"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            pytest.skip(f"{program} is missing: install the Debian package opencryptoki")
    token = ForeignToken(
        "opencryptoki",
        module,
        "taperig-ock",
        folder,
        _OPENCRYPTOKI,
        ("signing-key-in-file", "untrusted-wrapping"),
        {PIN_VARIABLE: PIN, SO_PIN_VARIABLE: SO_PIN},
    )
    ended = token.run("bash", "-c", _OPENCRYPTOKI_MAKE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return token


def nss(folder: Path) -> ForeignToken:
    """Make an NSS database with a PIN, or skip and name what is missing.

    It is reached through p11-kit's proxy, since it refuses a null C_Initialize.
    """
    _need_namespaces()
    softokn = _library("libsoftokn3.so", "libnss3")
    module = _library("p11-kit-proxy.so", "p11-kit-modules")
    if not Path("/usr/share/p11-kit/modules").is_dir():
        pytest.skip("p11-kit's folder of modules is missing: install the Debian package p11-kit")
    for name in ("modules", "db"):
        (folder / name).mkdir()
    (folder / "modules" / "softokn.module").write_text(
        f"module: {softokn}\n"
        f"x-init-reserved: configDir='sql:{folder / 'db'}' certPrefix='' keyPrefix='' "
        "secmod='secmod.db' flags= dbTokenDescription='taperig-nss'\n"
    )
    token = ForeignToken(
        "nss", module, "taperig-nss", folder, _NSS, ("hands-out-keys", "untrusted-wrapping")
    )
    ended = token.run(sys.executable, "-c", _NSS_MAKE, module)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return token


MAKERS: dict[str, Callable[[Path], ForeignToken]] = {"opencryptoki": opencryptoki, "nss": nss}


def _library(name: str, package: str) -> Path:
    found = next(iter(sorted(Path("/usr/lib").glob(f"*/{name}"))), None)
    if found is None:
        pytest.skip(f"{name} is missing: install the Debian package {package}")
    return found


def _need_namespaces() -> None:
    tried = subprocess.run(
        [*_ALONE, "true"], capture_output=True, text=True, check=False, timeout=30
    )
    if tried.returncode:
        pytest.skip(f"namespaces cannot be made (run as root): {tried.stderr.strip()}")
