"""How a client says who it is, and that no text shows its secret."""

from __future__ import annotations

from base64 import b64decode

import pytest

from policy_engine.sdk import ParameterError
from policy_tokens import client_authentication


@pytest.mark.parametrize(
    ("name", "secret", "pair"),
    [
        ("shop", "sesame", b"shop:sesame"),
        ("a:b", "c:d", b"a%3Ab:c%3Ad"),
        ("\u00e4 b", "%", b"%C3%A4+b:%25"),
    ],
)
def test_in_the_header_both_are_encoded_as_in_forms(name: str, secret: str, pair: bytes) -> None:
    made = client_authentication({"client": {"id": name, "secret": secret}})
    assert made.authorization is not None
    assert b64decode(made.authorization.removeprefix("Basic ")) == pair
    assert made.form == {}
    assert secret not in repr(made)


def test_in_the_form_they_are_as_they_are() -> None:
    made = client_authentication({"client": {"id": "a:b", "secret": "c d", "method": "post"}})
    assert (made.headers, made.form) == ({}, {"client_id": "a:b", "client_secret": "c d"})
    assert made == client_authentication({"client": {"id": "a:b", "secret": "c d", "method": "post"}})


def test_one_way_at_a_time() -> None:
    assert client_authentication({}).headers == {}
    assert client_authentication({"bearer_token": "t"}).headers == {"authorization": "Bearer t"}
    for wrong in ({"bearer_token": "a", "client": {"id": "a", "secret": "b"}}, {"bearer_token": "sesame\r\n"}):
        with pytest.raises(ParameterError) as caught:
            client_authentication(wrong)
        assert "sesame" not in str(caught.value)
