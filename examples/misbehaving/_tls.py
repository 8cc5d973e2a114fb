"""A certificate authority for one server, in a folder that goes away with it."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Authority:
    """Makes the context of a server, and those of the clients that trust it."""

    def __init__(self) -> None:
        # Here, and not at the top: without TLS the package needs the standard library only.
        import trustme

        self._folder = tempfile.TemporaryDirectory(prefix="misbehaving-")
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        self._certificate = authority.issue_cert("localhost", "127.0.0.1", "::1")

    def server_context(self, version: str | None = None) -> ssl.SSLContext:
        """A context that speaks "1.2" or "1.3" only, or either."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        if version is not None:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        if version == "1.3":
            # Both are needed to ask for a certificate after the handshake, not in it; none is insisted on.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.post_handshake_auth = True
        return context

    def client_context(self) -> ssl.SSLContext:
        """A context that trusts the server, with post-handshake authentication on as urllib3 has it."""
        context = ssl.create_default_context(cafile=self.ca_file)
        context.post_handshake_auth = True
        return context

    def close(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()
