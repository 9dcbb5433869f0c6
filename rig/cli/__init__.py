"""The commands of ``rig``, a group a file; main.py has the rest."""
