"""PKCS#11 tokens: modules, templates, restrictions, PINs."""
