"""What becomes gates, and how it is built."""
