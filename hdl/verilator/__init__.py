"""Simulation with Verilator: build, cache, lint, coverage."""
