"""Every YAML block of the pages is a configuration that its loader takes.

A block says after its language whose it is: lab.yaml or ekm.yaml. One of lab.yaml may show a part;
its members replace those of the project's lab.yaml.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hsm.ekm.config import load_config
from rig.lab.load import load_lab
from tests.support import markdown
from tests.support.rig_command import DEFAULT_LAB, PROJECT

EXAMPLES = [
    pytest.param(block, id=f"{page.relative_to(PROJECT)}:{block.line}")
    for page in markdown.pages()
    for block in markdown.blocks(page)
    if block.info and block.info[0] in ("yaml", "yml")
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_an_example_configuration_loads(block: markdown.Block, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    match block.info[1:]:
        case ["lab.yaml"]:
            whole = {**yaml.safe_load(DEFAULT_LAB), **yaml.safe_load(block.text)}
            path.write_text(yaml.safe_dump(whole, sort_keys=False))
            load_lab(path)
        case ["ekm.yaml"]:
            path.write_text(block.text)
            load_config(path)
        case _:
            pytest.fail("a YAML block says whose it is: ```yaml lab.yaml or ```yaml ekm.yaml")


def test_there_are_examples_of_both_files() -> None:
    marks = {block.values[0].info[1:] for block in EXAMPLES}  # type: ignore[union-attr]
    assert {("lab.yaml",), ("ekm.yaml",)} <= marks
