"""``rig ve import`` and ``export``: logical volumes as tape images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rig.cli.options import JsonOption, LabOption, NodeOption, OptionError, print_json
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
    images: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Tape images: AWSTAPE, HET, SIMH.")
    ],
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
    """Import tape images as logical volumes.

    AWSTAPE, HET (compressed with zlib or bzip2) and SIMH images are told apart by what is in them.
    The volumes' names are those of their VOL1 labels.
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
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="aws|het|tap",
            help="Format of what did not come as an image: AWSTAPE, HET (zlib) or SIMH.",
        ),
    ] = "aws",
    lab: LabOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export logical volumes as tape images with standard labels.

    What came as an image goes out byte for byte.
    """
    import datetime

    from rig.ve.volumes.image_formats import ImageFormat, format_of
    from rig.ve.volumes.image_transfer import export_image

    if form not in tuple(ImageFormat):
        raise OptionError(f"'{form[:20]}' is no format of tape images; give aws, het or tap.")
    chosen = ImageFormat(form)

    def copy(name: str, source: Path, target: Path, now: float) -> None:
        today = datetime.datetime.fromtimestamp(now, datetime.UTC).date()
        export_image(name, source, target, today, chosen)

    def suffix(source: Path) -> str:
        return f".{format_of(source) or chosen}"

    read_into_folder(out, names, copy, suffix=suffix, lab=lab, node=node, as_json=as_json)
