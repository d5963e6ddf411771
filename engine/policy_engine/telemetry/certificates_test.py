"""When a certificate expires is read as OpenSSL wrote it, for times of both forms and for files with several."""

from __future__ import annotations

import subprocess
from pathlib import Path
from ssl import cert_time_to_seconds

import pytest

from policy_engine.telemetry.certificates import certificate_samples, expiration

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def made(directory: Path, days: int, *more: str) -> Path:
    file = directory / f"{days}.pem"
    command = ["openssl", "req", "-x509", *_KEY, "-keyout", str(directory / "key"), "-out", str(file)]
    openssl(*command, "-subj", "/O=Several Words/CN=a.example", "-days", str(days), *more)
    return file


def openssl(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("days", [1, 400, 9000, 20000])  # the last one is after 2049, which is written otherwise
@pytest.mark.parametrize("more", [(), ("-addext", "subjectAltName=DNS:" + "a" * 63 + ".example")])
def test_the_time_is_the_one_in_it(tmp_path: Path, days: int, more: tuple[str, ...]) -> None:
    file = made(tmp_path, days, *more)
    said = openssl("openssl", "x509", "-in", str(file), "-noout", "-enddate").strip().removeprefix("notAfter=")
    assert expiration(file.read_bytes()) == cert_time_to_seconds(said)


def test_of_several_the_first_counts(tmp_path: Path) -> None:
    files = [made(tmp_path, days) for days in (30, 2, 9000)]
    together = b"a word\n" + b"".join(file.read_bytes() for file in files)
    assert expiration(together) == expiration(files[1].read_bytes())


@pytest.mark.parametrize("cut", [20, 60, 100])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, cut: int) -> None:
    lines = made(tmp_path, 30).read_text().splitlines()
    broken = tmp_path / "broken.pem"
    broken.write_text("\n".join([lines[0], lines[1][: cut // 4 * 4][:60], lines[-1]]))
    files = {"tls.cert": broken, "tls.client_ca": tmp_path / "none.pem"}
    assert certificate_samples(files) == {}
