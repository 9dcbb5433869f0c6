"""The register maps, generated from RDL."""
