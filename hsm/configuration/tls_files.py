"""The files of a TLS identity, as key managers and the rig are given them."""

from pydantic import Field

from hsm.configuration.part import LocalPath, Part


class TlsFiles(Part):
    """A TLS identity: certificate, key (mode 0600) and the CA of the peers."""

    certificate: LocalPath = Field(description="the path of a certificate (PEM)")
    key: LocalPath = Field(description="the path of its private key (PEM, mode 0600)")
    ca: LocalPath = Field(
        description="the path of the certificate of the authority that peers are checked against"
    )
