"""``samesession keys tls``: an authority and a certificate for the servers of a cluster.

The authority signs once and its own key is thrown away: whoever has the folder is a member, and
nobody else can become one. For development, and where servers are all alike; a site with an
authority of its own puts its three files into the folder instead.
"""

from __future__ import annotations

from pathlib import Path

from samesession.errors import ConfigError

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "cert.pem", "key.pem"
NAME = "cluster.samesession"


def make(folder: Path) -> tuple[Path, ...]:
    """Write the three files, none of them over another; returns their paths.

    Raises:
        ConfigError: one exists, the folder cannot be written, or the library is missing.
    """
    try:
        import trustme  # noqa: PLC0415  (an extra of one command)
    except ModuleNotFoundError:
        raise ConfigError(
            "keys tls needs trustme; pip install 'samesession[tls]', or make "
            f"{AUTHORITY}, {CERTIFICATE} and {KEY} with your own tools"
        ) from None
    authority = trustme.CA(organization_name="samesession")
    signed = authority.issue_cert(NAME)
    chain = b"".join(part.bytes() for part in signed.cert_chain_pems)
    files = {
        AUTHORITY: authority.cert_pem.bytes(),
        CERTIFICATE: chain,
        KEY: signed.private_key_pem.bytes(),
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            path = folder / name
            path.touch(mode=0o600, exist_ok=False)
            path.write_bytes(content)
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} exists; a new authority would lock the servers that have the old "
            "one out: name another folder"
        ) from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from None
    return tuple(folder / name for name in files)
