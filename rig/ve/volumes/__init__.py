"""Logical volumes: cache, labels, images."""
