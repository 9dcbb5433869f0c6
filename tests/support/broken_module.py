"""A PKCS#11 module: SoftHSM with one function replaced by other C code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hsm.pkcs11.structures import _FUNCTIONS

_WRAPPER = """
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef unsigned long Word;
typedef Word (*Function)(Word, Word, Word, Word, Word, Word, Word, Word);
struct List { unsigned char version[2]; Function functions[68]; };
static struct List replacement;
static Function replaced;
static Word broken(Word a, Word b, Word c, Word d, Word e, Word f, Word g, Word h) {
  BREAK;
  return 5;
}
Word C_GetFunctionList(struct List **list) {
  void *library = dlopen(SOFTHSM, RTLD_NOW);
  Word (*real)(struct List **) = dlsym(library, "C_GetFunctionList");
  struct List *original;
  real(&original);
  replacement = *original;
  replaced = replacement.functions[PLACE];
  replacement.functions[PLACE] = broken;
  *list = &replacement;
  return 0;
}
"""
CALL_REPLACED = "return replaced(a, b, c, d, e, f, g, h)"


def build_module(path: Path, softhsm: Path, function: str, code: str) -> Path:
    """Build the module at ``path`` and return the path.

    ``function`` (C_...) runs ``code``, and returns CKR_GENERAL_ERROR when the code returns nothing.
    """
    defines = [f'-DSOFTHSM="{softhsm}"', f"-DBREAK={code}", f"-DPLACE={_FUNCTIONS.index(function)}"]
    subprocess.run(
        ["gcc", "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", path, *defines],
        input=_WRAPPER.encode(),
        check=True,
    )
    return path
