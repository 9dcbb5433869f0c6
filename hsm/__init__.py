"""Key management: tokens, keys, the key manager and HSM validation."""
