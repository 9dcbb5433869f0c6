"""Configuration files in YAML: limits, models, mistakes with their lines."""
