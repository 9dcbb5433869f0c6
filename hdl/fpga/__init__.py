"""Bitstreams: synthesis, place and route, programming."""
