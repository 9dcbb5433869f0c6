"""``rig ve``: the virtualization engine's node."""

from rig.cli import ve_actions, ve_images, ve_recovery, ve_rekey, ve_show
from rig.cli.ve_common import ve_app

__all__ = ["ve_actions", "ve_app", "ve_images", "ve_recovery", "ve_rekey", "ve_show"]
