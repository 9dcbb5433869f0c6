"""The engine as a board in simulation: its top, its record port, its server."""
