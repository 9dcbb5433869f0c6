"""The audit log: hash-chained, rotated, archived."""
