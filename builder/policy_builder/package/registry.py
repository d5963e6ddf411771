"""One repository of a registry over HTTP: requests, redirects and authentication (OCI distribution specification 1.1).

A separate module because it decides who gets credentials: the registry itself and the token server that it names, never
the target of a redirect or of an upload's `Location` elsewhere, and nobody without TLS unless the operator said so.
Standard library only.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from policy_builder.package.challenges import Challenge, read_challenges
from policy_builder.package.credentials import DOCKER_HUB, CredentialsError, Login, find_login

TIMEOUT = 300.0
MAX_REDIRECTS = 5
CLIENT = "policy-builder"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?)/(?P<name>[a-z0-9]+([._/-]+[a-z0-9]+)*)"
)
_REDIRECTS = (301, 302, 303, 307, 308)
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HUB_HOST = "registry-1.docker.io"
_PORTS = {"http": 80, "https": 443}
_MAX_ANSWER = 1 << 20
_SHOWN_ANSWER = 2000


class PushError(Exception):
    """The registry refused, or the reference is not one; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came in the end, after redirects; `body` up to 1 MiB, `url` is whom it came from."""

    status: int
    reason: str
    headers: Message
    body: bytes
    url: str


@dataclass(frozen=True, slots=True)
class _Call:
    """One request; `secret` is `Authorization`, which only the origin of `url` gets; `sealed` forbids redirects."""

    method: str
    url: str
    data: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    secret: str = field(default="", repr=False)
    sealed: bool = False
    into: Path | None = None
    most: int = _MAX_ANSWER


@dataclass(frozen=True, slots=True)
class Connection:
    """How a registry is reached: `insecure` allows plain HTTP to a host that is not this machine.

    `ca` is a PEM file of further certificate authorities to trust, for a registry of one's own. A registry on this
    machine is spoken with over plain HTTP, unless there is a `ca`.
    """

    insecure: bool = False
    ca: Path | None = None


DIRECT = Connection()


class Repository:
    """HOST/NAME as an operator writes it. With `reading` no more than pulling is asked for. Raises PushError."""

    def __init__(self, repository: str, connection: Connection = DIRECT, *, reading: bool = False) -> None:
        match = _REFERENCE.fullmatch(repository)
        if match is None:
            raise PushError(
                f"{repository!r} is not a repository; write HOST/NAME, such as registry.example.test/team/engine"
            )
        self.host, name = match["host"].lower(), match["name"]
        server = self.host
        if self.host in DOCKER_HUB:
            server, name = _HUB_HOST, name if "/" in name else f"library/{name}"
        self._name = name
        self._actions = "pull" if reading else "pull,push"
        insecure = connection.insecure
        self._insecure = insecure
        self._opener = _opener(connection.ca)
        plain = insecure or (_is_local(server) and connection.ca is None)
        self.root = f"{'http' if plain else 'https'}://{server}/v2/{name}/"
        self._problem = ""
        self._login: Login | None = None
        try:
            self._login = find_login(self.host, name)
        except CredentialsError as error:  # a registry that asks for nothing does not need it
            self._problem = str(error)
        self._secrets = set(self._login.secrets() if self._login else ())
        self._authorization = _first_authorization(self._login)

    def call(
        self,
        method: str,
        url: str,
        data: bytes | None = None,
        *,
        kind: str = "application/octet-stream",
        accept: str = "",
        base: str = "",
        into: Path | None = None,
        most: int = _MAX_ANSWER,
    ) -> Answer | None:
        """Send one request to `url`, relative to `base` or the repository; return its answer.

        It is None for 404 to HEAD and GET. The content of a good answer is written to the file `into`, where one is
        given, and may have `most` bytes. Raises PushError.
        """
        url = self._joined(base or self.root, url)
        headers = {"Content-Type": kind} if data is not None else {}
        if accept:
            headers["Accept"] = accept
        for attempt in (1, 2):
            ours = _origin(url) == _origin(self.root)
            secret = self._authorization if ours else ""
            answer = self._exchange(_Call(method, url, data, headers, secret, into=into, most=most))
            if answer.status < 300:
                return answer
            if answer.status == 404 and method in ("HEAD", "GET"):
                return None
            # Whoever else asks for credentials gets none.
            if answer.status == 401 and attempt == 1 and _origin(answer.url) == _origin(self.root):
                authorization = self._answered(read_challenges(answer.headers.get_all("WWW-Authenticate") or ()))
                if authorization and authorization != self._authorization:
                    self._authorization = authorization
                    continue
            raise PushError(self._refusal(method, answer))
        raise AssertionError("the second answer is returned or raised")

    def _answered(self, challenges: Sequence[Challenge]) -> str:
        """Return the `Authorization` for the first challenge that can be met; empty when there is none."""
        bearer = [one for one in challenges if one.scheme == "bearer"]
        whole = [one for one in bearer if "realm" in one.parameters]
        basic = self._login.basic if self._login else ""
        if bearer and not (self._login and self._login.registry_token) and (whole or not basic):
            return self._token((whole or bearer)[0])
        if basic and any(challenge.scheme == "basic" for challenge in challenges):
            return f"Basic {basic}"
        return ""

    def _token(self, challenge: Challenge) -> str:
        """Fetch the bearer token that `challenge` asks for (token and OAuth2 specifications of distribution)."""
        realm = urllib.parse.urlsplit(self._checked_realm(challenge.parameters.get("realm", "")))
        scopes = challenge.parameters.get("scope", "").split() or [f"repository:{self._name}:{self._actions}"]
        asked = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        login = self._login or Login()
        if login.identity_token:
            form = [*asked, ("scope", " ".join(scopes)), ("client_id", CLIENT), ("grant_type", "refresh_token")]
            form.append(("refresh_token", login.identity_token))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            url = urllib.parse.urlunsplit(realm._replace(fragment=""))
            # Its body is the secret, so it is not sent on to anybody.
            call = _Call("POST", url, urllib.parse.urlencode(form).encode(), headers, sealed=True)
        else:
            query = "&".join(
                filter(None, [realm.query, urllib.parse.urlencode([*asked, *(("scope", one) for one in scopes)])])
            )
            url = urllib.parse.urlunsplit(realm._replace(query=query, fragment=""))
            call = _Call("GET", url, secret=f"Basic {login.basic}" if login.basic else "")
        answer = self._exchange(call)
        if answer.status != 200:
            raise PushError(f"no token for {self.host}: {self._refusal(call.method, answer)}")
        token = _token_of(answer.body)
        if token is None:
            where = _shown_url(url)
            raise PushError(
                f"no token for {self.host}: {where} did not answer with one; run `docker login {self.host}`"
            )
        self._secrets.add(token)
        return f"Bearer {token}"

    def _checked_realm(self, realm: str) -> str:
        """Return where tokens are, when credentials may go there."""
        try:
            parts = urllib.parse.urlsplit(realm)
            host, named = parts.netloc, bool(parts.hostname) and "@" not in parts.netloc and (parts.port or 1) > 0
        except ValueError:
            parts, host, named = urllib.parse.urlsplit(""), "", False
        plain = parts.scheme == "http" and self.root.startswith("http:") and (self._insecure or _is_local(host))
        if not named or not (parts.scheme == "https" or plain):
            shown = repr(_shown_url(realm)) if named else "a place"
            raise PushError(f"{self.host} sends credentials to {shown}, which is not https")
        return realm

    def _exchange(self, call: _Call) -> Answer:
        """Send a request and follow redirects, on which credentials go no further than their own origin."""
        url, origin = call.url, _origin(call.url)
        for _ in range(MAX_REDIRECTS + 1):
            if call.url.startswith("https:") and not url.startswith("https:"):
                raise PushError(f"{self.host} leads from https to {_shown_url(url)}, which is not https")
            answer = self._send(call, url, call.secret if _origin(url) == origin else "")
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            if call.sealed or (call.data is not None and answer.status not in (307, 308)):
                return answer
            url = self._joined(url, location)
        raise PushError(f"{call.method} {_shown_url(call.url)}: more than {MAX_REDIRECTS} redirects")

    def _send(self, call: _Call, url: str, secret: str) -> Answer:
        try:
            request = urllib.request.Request(url, call.data, call.headers, method=call.method)  # noqa: S310 - checked by _joined and _checked_realm
            if secret:
                request.add_unredirected_header("Authorization", secret)
            try:
                with self._opener.open(request, timeout=TIMEOUT) as response:
                    body = self._received(call, response)
                    return Answer(response.status, response.reason, response.headers, body, url)
            except urllib.error.HTTPError as error:
                with error:
                    return Answer(error.code, str(error.reason), error.headers, error.read(_MAX_ANSWER), url)
        except urllib.error.URLError as error:
            raise PushError(self._masked(f"{self._whom(url)} cannot be reached: {error.reason}")) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = self._masked(f"{type(error).__name__}: {error}"[:200])
            raise PushError(f"{self._whom(url)} cannot be reached, or does not speak HTTP: {reason}") from None

    def _received(self, call: _Call, response: http.client.HTTPResponse) -> bytes:
        """Return the content of a good answer, or write it to the file of the call."""
        if call.into is None:
            content = response.read(call.most + 1)
            if len(content) > call.most:
                raise PushError(f"{self._whom(call.url)} answered with more than {call.most} bytes")
            return content
        size = 0
        with call.into.open("wb") as file:
            while chunk := response.read(1 << 20):
                size += len(chunk)
                if size > call.most:
                    raise PushError(f"{self._whom(call.url)} answered with more than {call.most} bytes")
                file.write(chunk)
        return b""

    def _whom(self, url: str) -> str:
        return self.host if _origin(url) == _origin(self.root) else _shown_url(url)

    def _joined(self, base: str, url: str) -> str:
        """Return `url` as seen from `base`, when it is one that may be asked."""
        try:
            joined = urllib.parse.urldefrag(urllib.parse.urljoin(base, url)).url
            parts = urllib.parse.urlsplit(joined)
            usable = bool(parts.hostname) and (parts.port or 1) > 0 and "@" not in parts.netloc
        except ValueError:
            raise PushError(f"{self.host} leads to what is no URL") from None
        if parts.scheme not in _PORTS or not usable:
            raise PushError(f"{self.host} leads to {_shown_url(joined)}, which is neither http nor https")
        return joined

    def _refusal(self, method: str, answer: Answer) -> str:
        advice = ""
        if answer.status in (401, 403):
            advice = f"; {self._problem}" if self._problem else f"; run `docker login {self.host}`"
        text = self._masked(answer.body.decode(errors="replace"))[:_SHOWN_ANSWER].strip()
        reason = self._masked(answer.reason)
        return f"{method} {_shown_url(answer.url)}: {answer.status} {reason}{advice}{f': {text}' if text else ''}"

    def _masked(self, text: str) -> str:
        """Return what a server said without the credentials that it may have sent back."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            for form in (secret, urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)):
                text = text.replace(form, "***")
        return text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects to `_exchange`: urllib would turn a POST into a GET."""

    def http_error_302(self, *_: object) -> None:
        """Say that none is to be followed."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment] # any arguments


def _opener(ca: Path | None) -> urllib.request.OpenerDirector:
    """Return what opens URLs, trusting the machine's authorities and those in `ca`. Raises PushError."""
    if ca is None:
        return urllib.request.build_opener(_NoRedirects)
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        known = not isinstance(error, ssl.SSLError) and error.strerror
        reason = error.strerror if known else "it has no certificate in PEM form"
        raise PushError(f"{ca} cannot be used as a file of certificate authorities: {reason}") from None
    return urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context))


def _first_authorization(login: Login | None) -> str:
    if login is None:
        return ""
    if login.registry_token:
        return f"Bearer {login.registry_token}"
    return f"Basic {login.basic}" if login.basic else ""


def _is_local(host: str) -> bool:
    return re.sub(r":\d+$", "", host) in _LOCAL


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port (RFC 6454 4); `url` has been checked."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _shown_url(url: str) -> str:
    """Return `url` without what may be secret in it: user and password, and the query with its signatures."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "what is no URL"
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return urllib.parse.urlunsplit(shown) + ("?…" if parts.query else "")


def _token_of(body: bytes) -> str | None:
    """Return the token of an answer, under either of its two names; None when there is none that can be sent."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    token = answer.get("token") or answer.get("access_token")
    return token if isinstance(token, str) and _VISIBLE.fullmatch(token) else None
