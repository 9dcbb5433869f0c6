"""Formal proofs of the RTL."""
