"""How a client of an authorization server says who it is (RFC 6749, 2.3.1; RFC 7662, 2.1)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import quote_plus

from policy_engine.sdk import ParameterError, Parameters, header_value


@dataclass(frozen=True, slots=True, repr=False)
class ClientAuthentication:
    """What goes with each request: members of its form, and the value of `authorization`, None for none of it."""

    fields: tuple[tuple[str, str], ...] = ()
    authorization: str | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers to be sent."""
        return MappingProxyType({} if self.authorization is None else {"authorization": self.authorization})

    @property
    def form(self) -> Mapping[str, str]:
        """The members of the form to be sent."""
        return MappingProxyType(dict(self.fields))


def client_authentication(parameters: Parameters, path: str = "") -> ClientAuthentication:
    """Return what `client` (`id`, `secret`, `method`) or `bearer_token` say.

    Raises ParameterError, whose text never holds a secret.
    """
    if "bearer_token" in parameters:
        if "client" in parameters:
            raise ParameterError("either client or bearer_token says who asks", f"{path}/bearer_token")
        try:
            return ClientAuthentication(authorization=f"Bearer {header_value(parameters['bearer_token'])}")
        except ValueError:
            raise ParameterError("this cannot stand in a header", f"{path}/bearer_token") from None
    if "client" not in parameters:
        return ClientAuthentication()
    client = parameters["client"]
    name, secret = client["id"], client["secret"]
    if client.get("method", "basic") == "post":
        return ClientAuthentication((("client_id", name), ("client_secret", secret)))
    pair = f"{quote_plus(name)}:{quote_plus(secret)}".encode()
    return ClientAuthentication(authorization=f"Basic {b64encode(pair).decode()}")
