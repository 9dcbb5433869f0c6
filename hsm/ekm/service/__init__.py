"""The key manager as a service: processes, TLS, supervision and metrics."""
