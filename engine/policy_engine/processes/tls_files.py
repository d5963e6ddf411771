"""Whether the server's TLS files can be used: asked before anything starts, so that chains are not blamed for them."""

from __future__ import annotations

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
