"""Configuration files: YAML read within limits, checked by a model, each mistake with its line."""
