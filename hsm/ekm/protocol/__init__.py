"""The key exchange protocol: its messages, signatures and errors."""
