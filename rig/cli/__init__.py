"""The commands of ``rig``, a file each; each imports what it needs when it runs."""
