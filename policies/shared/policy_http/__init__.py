"""Calls of policies to HTTP servers: addresses, bounds on time and size, answers that are remembered.

A plain library, shared by all policies that ask a server; it is no policy itself. See its README.
"""

from policy_http.address import Server, checked_ca_file, seconds, server_from, server_of, tls_context
from policy_http.calling import Answer, Call, CallFailed, Connection
from policy_http.client import HttpClient
from policy_http.remembered import Kept, Remembered

__all__ = [
    "Answer",
    "Call",
    "CallFailed",
    "Connection",
    "HttpClient",
    "Kept",
    "Remembered",
    "Server",
    "checked_ca_file",
    "seconds",
    "server_from",
    "server_of",
    "tls_context",
]
