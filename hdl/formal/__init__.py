"""Formal proofs of the gates."""
