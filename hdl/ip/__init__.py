"""The engine as an IP: file list, FuseSoC core, C header, IP-XACT, csr.csv."""
