"""The settings of Sphinx, which builds the site; see `make docs`.

The sources begin at the root of the project, so that the pages may link to what is beside the code.
"""

from __future__ import annotations

from sphinx.application import Sphinx

project = "Taperig"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "hdl/**/README.md", "hsm/README.md", "rig/**/README.md"]
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Taperig"
html_show_copyright = False
mermaid_height = "auto"

_CONTENTS = """
```{toctree}
:hidden:
:caption: Guides
architecture
rtl
ip
lab
new-board
keys
tape
```

```{toctree}
:hidden:
:caption: More to know
tokens
key-manager
cartridge-format
security
glossary
```

```{toctree}
:hidden:
:caption: Reference
reference/commands
reference/lab
reference/ekm
reference/results
reference/validation
reference/registers
reference/rules
```

```{toctree}
:hidden:
:caption: Beside the code
../README
../CONTRIBUTING
../CHANGELOG
../SECURITY
../hdl/rtl/README
../hdl/sim/README
../hdl/boards/ulx3s/README
../hdl/formal/README
../hsm/README
../rig/ve/README
```

```{toctree}
:hidden:
:caption: Notes
notes/index
notes/slow-gates
notes/simulation-speed
notes/ulx3s-routing
notes/peers
notes/fault-injection
notes/key-manager-load
notes/virtualization-engine
```
"""


def setup(app: Sphinx) -> None:
    """Add the table of contents to the first page.

    It is not in the page itself, where a code host would show it as text.
    """
    app.connect("source-read", _add_contents)


def _add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += _CONTENTS
