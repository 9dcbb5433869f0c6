"""``rig ve import`` and ``export``: logical volumes as AWSTAPE images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rig.cli.options import JsonOption, LabOption, NodeOption, print_json
from rig.cli.ve_common import (
    VOLUMES,
    ManagementClassOption,
    ReplaceOption,
    StorageGroupOption,
    open_node_of,
    read_into_folder,
    refuse_existing,
    ve_app,
)


@ve_app.command("import", rich_help_panel=VOLUMES)
def import_images(
    images: Annotated[list[Path], typer.Argument(metavar="FILE", help="AWSTAPE images (.aws).")],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the volume; by default its VOL1 label's."),
    ] = None,
    replace: ReplaceOption = False,
    storage_group: StorageGroupOption = None,
    management_class: ManagementClassOption = None,
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import AWSTAPE images as logical volumes.

    Their names are those of their VOL1 labels.
    """
    from hsm.errors import TaperigError
    from rig.ve.volumes.image_transfer import volume_of_image

    if name is not None and len(images) > 1:
        raise TaperigError("A name is for one image; leave --name out to import several.")
    volumes = [volume_of_image(path, name) for path in images]
    with open_node_of(lab, node, drives=False) as (opened, _):
        if not replace:
            refuse_existing(opened, [volume.name for volume in volumes])
        for batch in opened.write_files(
            volumes, storage_group=storage_group, management_class=management_class
        ):
            for volume in batch if not as_json else ():
                print(f"{volume.name}  {volume.size} bytes  {volume.source}")
    if as_json:
        print_json([{"volume": each.name, "source": str(each.source)} for each in volumes])


@ve_app.command("export", rich_help_panel=VOLUMES)
def export_images(
    names: Annotated[list[str], typer.Argument(metavar="VOLUME", help="Logical volumes.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the images.")] = Path(),
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export logical volumes as AWSTAPE images with standard labels."""
    import datetime

    from rig.ve.volumes.image_transfer import export_image

    def copy(name: str, source: Path, target: Path, now: float) -> None:
        today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
        export_image(name, source, target, today)

    read_into_folder(out, names, copy, suffix=".aws", lab=lab, node=node, as_json=as_json)
