from __future__ import annotations

import json
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.explain.masking import Masking, clean, holds_credential

SECRET = "s3cr3t-value-XYZ"

CREDENTIAL_NAMES = [
    "authorization", "Authorization", "proxy-authorization", "cookie", "Set-Cookie", "x-api-key", "apikey", "api_key",
    "X-ApiKey", "x-auth-token", "x-amz-security-token", "X-Amz-Signature", "sig", "access_token", "id_token", "idToken",
    "refreshToken", "client_secret", "clientSecret", "password", "new_password", "passwd", "jwt", "x-jwt-assertion",
    "session_id", "sessionid", "x-csrf-token", "private_key", "code", "otp", "x-goog-api-key", "x-functions-key",
    "x-vault-token", "ocp-apim-subscription-key", "pin",
]  # fmt: skip

PLAIN_NAMES = [
    "accept", "content-type", "content-length", "user-agent", "x-request-id", "traceparent", "host", "x-forwarded-for",
    "page", "q", "limit", "keyboard", "monkey", "x-keycount", "author", "pinned", "encode", "tokenizer-name",
    "www-authenticate", "sec-websocket-key", "idempotency-key", "status-code",
]  # fmt: skip


@pytest.mark.parametrize("name", CREDENTIAL_NAMES)
def test_a_value_under_the_name_of_a_credential_is_never_shown(name: str) -> None:
    masking = Masking()
    assert holds_credential(name)
    assert SECRET not in masking.header(name, SECRET)
    assert SECRET not in masking.text(f"/path?a=1&{name}={SECRET}&b=2")
    assert SECRET not in masking.text(f"https://host/path?{name}={SECRET}#part")
    assert SECRET not in masking.query(f"{name}={SECRET}")
    assert SECRET not in masking.query(f"a=1;{name}={SECRET}")
    assert SECRET not in masking.body(json.dumps({"user": "u", name: SECRET}).encode(), 500)
    assert SECRET not in masking.body(json.dumps([{"in": {name: SECRET}}]).encode(), 500)
    assert SECRET not in masking.body(f"a=1&{name}={SECRET}".encode(), 500)
    assert SECRET not in json.dumps(masking.value("x", {name: SECRET, "list": [{name: SECRET}]}))


@pytest.mark.parametrize("name", CREDENTIAL_NAMES)
@pytest.mark.parametrize(
    "text",
    [
        "https://app/callback#NAME=VALUE&state=1", "NAME=VALUE", "a; NAME=VALUE; b", "/p;NAME=VALUE/x", "?NAME=a;VALUE",
        "?NAME=a?VALUE", "/cb?next=%2Fx%3FNAME%3DVALUE", "/cb?next=%252Fx%253Fa%253D1%2526NAME%253DVALUE",
        "?NAME=a%26VALUE", '?NAME="VALUE"', "wrong (NAME=VALUE)", "Digest a=1, NAME=VALUE",
    ],
)  # fmt: skip
def test_pairs_are_masked_wherever_they_stand_in_a_text(name: str, text: str) -> None:
    shown = Masking().text(text.replace("NAME", name).replace("VALUE", SECRET))
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize("name", CREDENTIAL_NAMES)
@pytest.mark.parametrize(
    "body",
    [
        'user=u&NAME=a"VALUE', "user=u&NAME=VALUE\n", "NAME=a VALUE&user=u", '{"NAME": ["VALUE", 1], "user": "u"}',
        '{"NAME": {"x": ["]", "VALUE"]}, "user": "u"}', '{"user": "u", "NAME": ["cut", "VALUE', "user: u\nNAME: VALUE",
        "{'NAME': 'VALUE', 'user': 'u'}", '{"query": "{ login(user: \\"u\\", NAME: \\"VALUE\\") }"}',
        'login(user: "u", NAME: "VALUE")', '<login user="u" NAME="VALUE"/>', '{"url": "/user?NAME=VALUE"}',
        '{"\\u0078-NAME": "VALUE", "user": "u"}', r'{"user": "{\"NAME\": \"VALUE\"}"}',
    ],
)  # fmt: skip
def test_values_of_bodies_are_masked_whatever_holds_them(name: str, body: str) -> None:
    shown = Masking().body(body.replace("NAME", name).replace("VALUE", SECRET).encode(), 500)
    assert SECRET not in shown
    assert "***" in shown
    assert "user" in shown or not body.startswith("{")


@pytest.mark.parametrize("body", [b'{"a": ["b", {"c": "d=e"}], "f": 1}', b"a=b c&d=e", b"a: b\nc: d", b'f(a: "b")'])
def test_bodies_without_credentials_are_shown_as_they_are(body: bytes) -> None:
    assert Masking().body(body, 500) == body.decode()


@pytest.mark.parametrize("code", ["-32603", '"invalid_api_key"', '"rate_limit_exceeded"'])
def test_the_code_of_an_error_is_shown_and_one_of_a_login_is_not(code: str) -> None:
    body = f'{{"error": {{"code": {code}, "message": "m"}}}}'
    assert Masking().body(body.encode(), 200) == body
    for secret in ("123456", f'"{SECRET}"', '"4f0a9b"', "0", '"invalid"'):
        assert secret not in Masking().body(body.replace(code, secret).encode(), 200)


def test_a_secret_is_masked_as_queries_forms_and_json_write_it() -> None:
    secret = 'ab+/ "c=='
    masking = Masking(secrets=(secret,))
    for text in (secret, "ab%2B%2F%20%22c%3D%3D", "ab%2B%2F+%22c%3D%3D", 'ab+/ \\"c=='):
        assert masking.text(f"/p?q={text}&x=1") == "/p?q=***&x=1"
        assert "c" not in masking.body(f'["{text}"]'.encode(), 100)


@pytest.mark.parametrize("name", CREDENTIAL_NAMES)
def test_forms_in_parts_and_xml_hold_credentials_too(name: str) -> None:
    part = f'--b\r\ncontent-disposition: form-data; name="{name}"\r\ncontent-type: text/plain\r\n\r\n{SECRET}\r\n--b--'
    assert SECRET not in Masking().body(part.encode(), 500)
    element = f'<a:login xmlns:a="x"><a:{name} kind="x">{SECRET}</a:{name}></a:login>'
    assert SECRET not in Masking().body(element.encode(), 500)


JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text", [JWT, f"x {JWT} y", f"/files/{JWT}/a", f'["{JWT}"]', f"bearer {JWT}", "Basic dXNlcjpwYXNz"]
)
def test_tokens_are_masked_wherever_they_stand(text: str) -> None:
    for shown in (Masking().text(text), Masking().body(text.encode(), 500), Masking().header("x-any", text)):
        assert "***" in shown
        assert not any(piece in shown for piece in ("c2lnbmF0dXJl", "eyJzdWIi", "dXNlcjpwYXNz"))


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_what_is_no_credential_is_shown(name: str) -> None:
    masking = Masking()
    assert masking.header(name, "value") == "value"
    assert masking.query(f"{name}=value") == f"{name}=value"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f"Bearer {SECRET}", "Bearer ***"),
        (f"Basic {SECRET}", "Basic ***"),
        (f"basic {SECRET}", "basic ***"),
        (f"Unknown {SECRET}", "***"),
        (SECRET, "***"),
        (f"{SECRET} x", "***"),
        ("", ""),
    ],
)
def test_of_authorization_the_known_scheme_stays(value: str, shown: str) -> None:
    assert Masking().header("Authorization", value) == shown


def test_of_cookies_the_names_stay() -> None:
    masking = Masking()
    assert masking.header("cookie", f"sid={SECRET}; theme={SECRET}") == "sid=***; theme=***"
    assert masking.header("set-cookie", f"sid={SECRET}; Path=/; HttpOnly") == "sid=***; Path=/; HttpOnly"
    assert SECRET not in masking.header("cookie", SECRET)


def test_percent_encoded_names_are_names() -> None:
    assert SECRET not in Masking().query(f"%74oken={SECRET}")


def test_user_and_password_of_a_url_are_masked() -> None:
    assert Masking().text(f"https://user:{SECRET}@host/x") == "https://***@host/x"


def test_names_and_values_that_a_chain_declares() -> None:
    masking = Masking(names=("X-Partner",), secrets=(SECRET, "ab"))
    assert masking.header("x-partner", "plain") == "***"
    assert masking.query("x-partner=plain&ab=ab") == "x-partner=***&ab=ab"
    assert masking.header("x-any", f"before {SECRET} after") == "before *** after"
    assert SECRET not in masking.body(f"text {SECRET}".encode(), 100)
    assert SECRET not in str(masking.value("any", ["x", SECRET]))


def test_who_a_key_belongs_to_is_shown_but_not_the_key() -> None:
    shown = Masking().value("api_key", {"client": "partner", "value": SECRET, "key": SECRET})
    assert shown == {"client": "partner", "value": "***", "key": "***"}


@pytest.mark.parametrize(
    "piece",
    [
        "<a", "a=", '"a":', 'name="a"', "eyJ.", "?a=&", "basic ", "a\n", '"', "<a>", "Bearer ", '"key":[', 'key="', "key=",
        "?key='", "a:'", "a: ", "%25", "key", '"key":"', "a-",
    ],
)  # fmt: skip
def test_masking_grows_no_faster_than_a_body(piece: str) -> None:
    masking, times = Masking(secrets=(SECRET,)), []
    for count in (1, 2, 4):
        data = (piece * (count * 20_000))[: count * 20_000].encode()
        began = time.process_time()
        for _ in range(3):
            masking.body(data, count * 20_000)
        times.append(time.process_time() - began)
    assert times[2] < 12 * max(times[0], 0.01)


def test_long_values_are_cut() -> None:
    assert len(Masking().text("x" * 100_000)) < 600
    assert len(Masking().body(b"x" * 100_000, 50)) < 100


@given(st.text())
def test_what_is_shown_is_json_and_harms_no_terminal(text: str) -> None:
    shown = clean(text)
    shown.encode()
    assert not any(ord(one) < 32 and one not in "\n\t" for one in shown)
    assert "\x1b" not in shown


@given(st.text(string.printable), st.sampled_from(CREDENTIAL_NAMES), st.text(string.printable))
def test_a_credential_between_anything_is_masked(before: str, name: str, after: str) -> None:
    assert SECRET not in Masking().text(f"{before}?{name}={SECRET}&{after}")
