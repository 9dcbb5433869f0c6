"""The encryption key manager."""
