"""A validation of a token as one HTML file that needs no other."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hsm.errors import TaperigError
from hsm.validate.probes import AREAS, PROBES
from hsm.validate.report import Validation


class PageUnwritableError(TaperigError):
    """The page cannot be written."""


def page(validation: Validation) -> str:
    """Return the validation as HTML; texts of the token are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = groupby(validation.findings, key=lambda finding: PROBES[finding.probe].area)
    return environment.get_template("hsm_page.html.jinja").render(
        validation=validation,
        verdict=validation.verdict,
        areas=[(AREAS[area], list(findings)) for area, findings in groups],
    )


def write_page(validation: Validation, path: Path) -> None:
    """Write the page; raises PageUnwritableError."""
    try:
        path.write_text(page(validation), encoding="utf-8")
    except OSError as error:
        raise PageUnwritableError(
            f"The page {path} cannot be written ({error.strerror}); name another."
        ) from None
