"""The files of TLS: which there are, and whether they can be used, asked before anything starts."""

from __future__ import annotations

from pathlib import Path

from policy_engine.settings.model import Settings
from policy_engine.transport.native.tls import server_context
from policy_engine.transport.options import TlsOptions


def check_tls(settings: Settings) -> None:
    """Raise ValueError that names the file that cannot be used, and the setting that names it."""
    tls = settings.tls
    if tls.cert is None or tls.key is None:
        return
    try:
        server_context(TlsOptions(tls.cert, tls.key, tls.client_ca, tls.client_names))
    except ValueError as error:
        raise ValueError(f"settings tls.cert, tls.key, tls.client_ca: {error}") from None


def certificate_files(settings: Settings) -> dict[str, Path]:
    """Return the files that hold certificates, by the settings that name them."""
    xds = settings.xds.tls
    named = {
        "tls.cert": settings.tls.cert,
        "tls.client_ca": settings.tls.client_ca,
        "xds.tls.cert": xds.cert,
        "xds.tls.ca": xds.ca,
    }
    return {name: file for name, file in named.items() if file is not None}
