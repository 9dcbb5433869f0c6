"""``rig ekm``: the key manager."""

from __future__ import annotations

from rig.cli.ekm_admin import audit_app, cartridge_app, drive_app, key_app
from rig.cli.help import CommandLine
from rig.cli.options import (
    ConfigOption,
    EkmOption,
    LabOption,
    ekm_of,
    lab_of,
    refuse_lab_options,
)

ekm_app = CommandLine(help="The key manager (EKM).")
ekm_app.add_typer(drive_app, name="drive")
ekm_app.add_typer(key_app, name="key")
ekm_app.add_typer(cartridge_app, name="cartridge")
ekm_app.add_typer(audit_app, name="audit")


@ekm_app.command("serve")
def ekm_serve(
    lab: LabOption = None,
    name: EkmOption = None,
    config: ConfigOption = None,
) -> None:
    """Serve data keys until interrupted (TLS 1.3, client certificates)."""
    import os

    from hsm.ekm.config import load_config
    from hsm.ekm.logs import LOG
    from hsm.ekm.service.server import serve
    from rig.testbed.key_managers import ekm_config, provision
    from rig.testbed.state import state_dir

    refuse_lab_options(config, lab, name)
    if config is not None:
        serving = load_config(config)
    else:
        checked = lab_of(lab)
        chosen = ekm_of(checked, name)
        serving = ekm_config(chosen, provision(checked, state_dir()))
    LOG.configure(serving.log_format, serving.log_level, f"front {os.getpid()}")
    serve(serving)
