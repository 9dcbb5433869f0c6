"""The results of a run: events, measurements, checks, rules."""
