"""What a run found: events, measurements, results, rules."""
