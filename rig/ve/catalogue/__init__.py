"""The catalogue: database, schema, settings, messages."""
