"""Administration of a key manager."""
