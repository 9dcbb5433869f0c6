"""What is run and judged."""
