"""Formats by cases of our own, of the kinds that readers of the RFCs get wrong; tools/conformance has the public suite."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_engine.sdk.text_formats import FORMATS

GOOD = {
    "date": ["2024-02-29", "2000-02-29", "0000-01-01", "9999-12-31"],
    "time": ["00:00:00Z", "23:59:60Z", "23:59:60.25z", "00:29:60+00:30", "18:59:60-05:00", "10:00:00.123456789+23:59"],
    "date-time": ["1990-12-31T15:59:60-08:00", "2024-02-29t00:00:00z"],
    "duration": ["P1Y2M3DT4H5M6S", "P2W", "PT0S", "PT0.5S", "P1M", "PT36H"],
    "email": [
        "a.b+c@example.com",
        '"a b"@x.test',
        '"a\\"b"@x.test',
        '"a@b"@x.test',
        "a@[192.0.2.1]",
        "a@[IPv6:2001:db8::1]",
    ],
    "hostname": ["a", "a-b.c", "A1.B2", "xn--bcher-kva.example", "xn--4gbwdl.xn--wgbh1c", "a" * 63 + ".b"],
    "ipv4": ["0.0.0.0", "255.255.255.255"],
    "ipv6": ["::", "::1", "2001:db8::192.0.2.1"],
    "uri": ["urn:a:b", "http://a:@b:80/?#", "http://[::1]:8080/", "http://[v1.a:b]/", "mailto:a@b", "x:", "http://a:/"],
    "uri-reference": ["", "/a", "a/b:c", "?q", "#f", "//h/p", "./a:b"],
    "iri": ["http://b\xfccher.example/\u2713?\ue000#\xe9"],
    "iri-reference": ["\xe9/\xe8"],
    "uri-template": ["/a/{b}", "{+path,x:3}{?y*,z}", "{%41.b}", ""],
    "uuid": ["2EB8AA08-aa98-11ea-b4aa-73b441d16380"],
    "json-pointer": ["", "/", "/a~0b/~1", "/\u2713"],
    "relative-json-pointer": ["0", "1/a", "12#", "0/~0"],
}
BAD = {
    "date": [
        "2023-02-29",
        "1900-02-29",
        "2024-13-01",
        "2024-00-10",
        "2024-1-1",
        "\u0662024-01-01",
        "2024-01-01\n",
        "20240101",
    ],
    "time": [
        *("12:00:60Z", "23:58:60Z", "23:59:60+01:00", "22:59:60-00:30", "23:59:61Z", "24:00:00Z", "10:00:00", "10:00Z"),
        *(
            "10:00:00+24:00",
            "10:00:00+01:60",
            "10:00:00.Z",
            "1\u0660:00:00Z",
            "10:00:00Z\n",
            "10:00:00 Z",
            "10:00:00+0100",
        ),
    ],
    "date-time": ["2024-02-30T00:00:00Z", "2024-01-01 00:00:00Z", "2024-01-01T12:00:60Z", "2024-01-01T", "T00:00:00Z"],
    "duration": [
        *(
            "P",
            "PT",
            "P1",
            "P1Y0,5S",
            "P1YT",
            "PT0,5S",
            "P1Y2W",
            "P1DT",
            "PT1D",
            "P2S",
            "P1Y1D",
            "P\u0662Y",
            "P1.5Y",
            "P-1Y",
        ),
        *("PT.5S", "PT1.S", " P1Y", "P1Y\n", "p1y"),
    ],
    "email": [
        *(
            "a",
            "a@",
            "@b",
            "a b@c",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a@b c",
            "a@-b",
            "a@b_c",
            'a"b@c',
            '"a@b',
            "a@[300.0.0.1]",
        ),
        *("a@[::1]", "a@[IPv6:1]", "a@b,c@d", "a@b\n", "x" * 65 + "@b", "\xe9@b", "a@"),
    ],
    "hostname": [
        *(
            "",
            ".",
            "a.",
            "a..b",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a" * 64,
            ".".join(["a" * 60] * 5),
            "\u0661.a",
            "a\n",
            "xn--",
        ),
        *(
            "xn--X",
            "xn--a",
            "xn--zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "xn--hello-txk",
            "xn--07jt112bpxg",
        ),
        *("xn--b3cher-kva0", "xn--99999999999", "xn--a--"),
    ],
    "ipv4": ["01.2.3.4", "1.2.3", "1.2.3.256", "1.2.3.4/8", "1.2.3.\u0664", "0x7f.0.0.1", "1.2.3.4\n", " 1.2.3.4"],
    "ipv6": ["", ":", "::1%eth0", "1::2::3", "::1/64", "12345::", "::\u0661", "[::1]", "::1\n", "1.2.3.4"],
    "uri": [
        *(
            "",
            "a",
            "/a",
            "//a",
            ":a",
            "1a:b",
            "http://a:b/",
            "http://a:8o/",
            "http://a:\u0661/",
            "http://a/[b]",
            "http://a/?[b]",
        ),
        *(
            "http://a/#[",
            "http://[::1/",
            "http://::1]/",
            "http://[1.2.3.4]/",
            "http://[::1]x/",
            "http://a b",
            "http://a/%zz",
        ),
        *(
            "http://a/%a",
            "http://a/\\b",
            "http://a/<b>",
            'http://a/"',
            "http://a/{b}",
            "http://\xe9",
            "x:#a#b",
            "http://a@b@c/",
        ),
        *("http://[fe80::1%25eth0]/", "x:^", "x:`", "x:|", "http://a\n"),
    ],
    "uri-reference": ["a:b:c d", "1a:b", "\\a", "//[", "//a:x", "%", "[a]", "##"],
    "iri": ["http://a/\ue000", "http://[2001:db8::1\xe9]/", "\xe9:a", "http://a/\ud800"],
    "iri-reference": ["\xe9:a", "<"],
    "uri-template": ["{", "}", "{}", "{a", "{a}}", "{a,}", "{a:0}", "{a:10000}", "{a b}", "{-a}", "<", "%1"],
    "uuid": [
        "2eb8aa08aa9811eab4aa73b441d16380",
        "2eb8aa08-aa98-11ea-b4aa-73b441d1638",
        "2eb8aa08-aa98-11ea-b4aa-73b441d1638g",
    ],
    "json-pointer": ["a", "/~", "/~2", "#/a"],
    "relative-json-pointer": ["", "/a", "01", "-1", "1a", "1##", "\u0661"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_of_a_format_and_what_is_not(name: str) -> None:
    assert [text for text in GOOD[name] if not FORMATS[name](text)] == []
    assert [text for text in BAD[name] if FORMATS[name](text)] == []


@given(st.sampled_from(sorted(FORMATS)), st.text(alphabet=st.characters(), max_size=40))
def test_no_text_makes_a_format_fail(name: str, text: str) -> None:
    assert FORMATS[name](text) in (True, False)


@given(st.text(alphabet="xn-abc019\xe9.", max_size=30))
def test_no_punycode_makes_a_name_fail(text: str) -> None:
    assert FORMATS["hostname"](f"xn--{text}") in (True, False)


@pytest.mark.parametrize("name", FORMATS)
def test_long_texts_take_linear_time(name: str) -> None:
    def cost(size: int) -> float:
        began = time.process_time()
        for unit in ("a", "a.", "1", "~0/", "{a}", "%41", "a@", "/:", "xn--a.", "\\a", '"', "P1Y", "-"):
            FORMATS[name](unit * size)
            FORMATS[name]("x:" + unit * size + "\n")
        return time.process_time() - began

    cost(1000)
    small, large = min(cost(20_000) for _ in range(3)), min(cost(80_000) for _ in range(3))
    assert large < 12 * small + 0.05
