"""The simulated board: its top module, record port and server."""
