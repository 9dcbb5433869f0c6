"""The virtual board: a simulated board top behind a serial line."""
