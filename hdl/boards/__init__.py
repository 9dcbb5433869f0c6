"""Boards: the RTL around the engine."""
