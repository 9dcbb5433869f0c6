"""The rig: what drives hardware and judges it."""
