"""The form that every junit.xml of the rig has."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import xmlschema

JENKINS = xmlschema.XMLSchema(str(Path(__file__).with_name("jenkins_junit.xsd")))
_VOLSER = re.compile(r"\b[A-Z]{3}\d{3}\b")


def read_junit(path: Path) -> ElementTree.Element:
    """Return the root of a junit.xml, which must be as Jenkins reads it.

    The name of a case occurs once, and names no cartridge.
    """
    JENKINS.validate(str(path))
    root = ElementTree.parse(path).getroot()
    cases = [f"{case.get('classname')}: {case.get('name')}" for case in root.iter("testcase")]
    assert sorted(cases) == sorted(set(cases))
    assert [case for case in cases if _VOLSER.search(case)] == []
    return root
