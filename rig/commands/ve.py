"""``rig ve``: the virtualization engine's node."""

from rig.commands import ve_images, ve_look, ve_work
from rig.commands.ve_base import ve_app

__all__ = ["ve_app", "ve_images", "ve_look", "ve_work"]
