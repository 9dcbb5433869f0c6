"""A board that is not there: the whole board top, simulated, behind a serial line."""
