"""The messages of a key exchange and who signs them."""
