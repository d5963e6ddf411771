"""TLS as HTTP/2 wants it (RFC 9113 §9.2): 1.2 or newer, ALPN `h2`, forward-secret AEAD ciphers."""

from __future__ import annotations

import ssl

from policy_engine.transport.options import TlsOptions, check_files

ALPN = "h2"
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Load the files; raises ValueError that names the one that cannot be used, never its content."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_TLS12_CIPHERS)
    context.set_alpn_protocols([ALPN])
    check_files(options)
    try:
        context.load_cert_chain(options.certificate_file, options.key_file)
    except OSError as error:  # of OpenSSL, as the files can be read
        reason = f"{error.strerror or error}; expected a certificate chain in PEM and the key that belongs to it"
        raise ValueError(f"TLS certificate {options.certificate_file} with key {options.key_file}: {reason}") from None
    if options.client_ca_file is not None:
        try:
            context.load_verify_locations(cafile=options.client_ca_file)
        except OSError as error:
            raise ValueError(f"TLS client CA file {options.client_ca_file}: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
