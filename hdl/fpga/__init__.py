"""From RTL to a bitstream: synthesis, place and route, programming."""
