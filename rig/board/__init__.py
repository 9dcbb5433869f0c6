"""The way to a board."""
