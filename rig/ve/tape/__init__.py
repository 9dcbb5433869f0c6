"""Tape work: sequences, jobs, cartridges, rekey."""
