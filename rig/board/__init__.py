"""Boards and the links to them."""
