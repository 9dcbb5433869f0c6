"""Keys: keystore, data keys, EEDKs, certificates, signatures."""
