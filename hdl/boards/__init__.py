"""Boards: what stands around the engine."""
