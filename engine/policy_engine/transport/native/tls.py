"""TLS as HTTP/2 wants it (RFC 9113 §9.2): 1.2 or newer, ALPN `h2`, forward-secret AEAD ciphers."""

from __future__ import annotations

import ssl

from policy_engine.transport.options import TlsOptions

ALPN = "h2"
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Load the files; raises ValueError that names the one that cannot be used, never its content."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_TLS12_CIPHERS)
    context.set_alpn_protocols([ALPN])
    load_certificate(context, options)
    if options.client_ca_file is not None:
        try:
            context.load_verify_locations(cafile=options.client_ca_file)
        except OSError as error:
            raise ValueError(f"TLS client CA file {options.client_ca_file}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, options: TlsOptions) -> None:
    """Load certificate and key, also again after they were renewed: new connections then get the new ones."""
    try:
        context.load_cert_chain(options.certificate_file, options.key_file)
    except OSError as error:
        raise ValueError(f"TLS certificate {options.certificate_file} with key {options.key_file}: {error}") from None
