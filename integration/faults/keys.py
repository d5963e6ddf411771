"""Faults of an identity provider whose keys jwt-validation fetches: failing, silent, wrong, its first address dead."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from integration.faults.changes import MARKED
from integration.faults.scenario import Measured, Promise, Scenario, Terms
from integration.faults.site import POLICIES, Site, site
from integration.faults.stores import SECOND_ADDRESS, two_addresses
from integration.harness import client
from integration.harness.certificates import CertificateAuthority
from integration.harness.chain_file import Document, chain, chains, policy
from integration.harness.door import dead_address
from integration.harness.exchange import HeaderList
from integration.harness.jwks import JwksServer
from integration.harness.tokens import Issuer, SigningKey

_BAD_S = 5.0


def _guarded(issuer: Issuer, url: str, ca_file: Path) -> Document:
    jwks = {"url": url, "ca_file": str(ca_file), "cache_ttl": "1s", "min_refresh_interval": "1s", "timeout": "2s"}
    parameters = {"issuer": issuer.issuer, "audiences": [issuer.audience], "jwks": jwks}
    return chains(chain("r", policy("jwt-validation", "v1", parameters), MARKED))


@dataclass(slots=True)
class Provided:
    """Engines that fetch keys from `jwks`, and what a good request brings."""

    site: Site
    jwks: JwksServer
    issuer: Issuer
    headers: HeaderList

    def answers(self, status: int, headers: HeaderList | None = None) -> bool:
        """Tell whether a request gets this status."""
        sent = self.headers if headers is None else headers
        return client.send(self.site.port, target="/r/x", headers=sent).status == status


@contextmanager
def _provided(terms: Terms, *, first_address_dead: bool = False) -> Iterator[Provided]:
    authority, issuer = CertificateAuthority.create(), Issuer()
    address = (SECOND_ADDRESS if first_address_dead else "127.0.0.1", 0)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        jwks = stack.enter_context(JwksServer(issuer, authority, directory, address))
        ca_file = directory / "ca.pem"
        ca_file.write_bytes(authority.certificate_pem)
        headers = [("authorization", f"Bearer {issuer.token()}")]
        hosts, url = None, jwks.url
        if first_address_dead:
            stack.enter_context(dead_address(jwks.port))
            hosts, url = two_addresses(directory), jwks.url.replace("127.0.0.1", "localhost")
        document = _guarded(issuer, url, ca_file)
        running = stack.enter_context(site(document, POLICIES, terms.engines, headers=headers, hosts=hosts))
        yield Provided(running, jwks, issuer, headers)


def _while(terms: Terms, begin: Callable[[JwksServer], None], end: Callable[[JwksServer], None]) -> Measured:
    with _provided(terms) as given, given.site.loaded(terms, headers=given.headers) as course:
        begin(given.jwks)
        time.sleep(_BAD_S)
        stranger = [("authorization", f"Bearer {given.issuer.wrong_key()}")]
        course.expect(given.answers(401, stranger), "a token of a key that nobody published was not refused")
        end(given.jwks)
        course.fault_ends()
        course.whole_again(lambda: given.answers(200), "accepting good tokens")
    return course.measured()


def failing(terms: Terms) -> Measured:
    """It answers 503."""

    def begin(jwks: JwksServer) -> None:
        jwks.fail_with = HTTPStatus.SERVICE_UNAVAILABLE

    def end(jwks: JwksServer) -> None:
        jwks.fail_with = None

    return _while(terms, begin, end)


def stalling(terms: Terms) -> Measured:
    """It accepts requests and answers nothing."""
    return _while(terms, lambda jwks: jwks.answering.clear(), lambda jwks: jwks.answering.set())


def _lying(body: bytes) -> Callable[[Terms], Measured]:
    def begin(jwks: JwksServer) -> None:
        jwks.body = body

    def end(jwks: JwksServer) -> None:
        jwks.body = None

    return lambda terms: _while(terms, begin, end)


def wrong_keys(terms: Terms) -> Measured:
    """It publishes keys that signed nothing, under a key id of their own."""
    return _lying(json.dumps({"keys": [SigningKey("other").jwk()]}).encode())(terms)


def no_keys(terms: Terms) -> Measured:
    """It publishes a page for people."""
    return _lying(b"<html>503</html>")(terms)


def first_address_dead(terms: Terms) -> Measured:
    """The first of its two addresses drops what is sent to it: keys come from the second, again and again."""
    with (
        _provided(terms, first_address_dead=True) as given,
        given.site.loaded(terms, headers=given.headers) as course,
    ):
        before = given.jwks.fetches
        time.sleep(_BAD_S)
        course.expect(given.jwks.fetches > before, "no keys were fetched from the second address")
        course.fault_ends()
    return course.measured()


_STALE = Promise(failed=0, recovered=8.0, also="the keys at hand go on serving")
SCENARIOS = (
    Scenario(name="keys-failing", fault="the key set answers 503 for 5 s", run=failing, promise=_STALE),
    Scenario(name="keys-stalling", fault="the key set answers nothing for 5 s", run=stalling, promise=_STALE),
    Scenario(name="keys-none", fault="the key set is a page for people for 5 s", run=no_keys, promise=_STALE),
    Scenario(
        name="keys-wrong",
        fault="the key set holds other keys for 5 s",
        run=wrong_keys,
        promise=Promise(failed=None, recovered=8.0),
    ),
    Scenario(
        name="keys-first-address-dead",
        fault="the first address of the key set drops packets",
        run=first_address_dead,
        promise=Promise(failed=0, recovered=8.0),
    ),
)
