"""The engine as an IP: file list, FuseSoC core, headers, csr.csv."""
