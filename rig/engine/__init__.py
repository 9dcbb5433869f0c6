"""The engine's driver, known answers and throughput."""
