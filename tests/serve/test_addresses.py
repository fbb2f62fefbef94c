"""Names that stand for several addresses, and TLS on either side."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from preble_plugin.serve.app import App
from tests.serve.calls import complete, numbers
from tests.serve.conftest import MakeEngine, MakeRouter


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the name server says; a name without addresses is not known to it."""
    told: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, *given: Any, **named: Any) -> Any:
        if host not in told:
            return real(host, *given, **named)
        if not told[host]:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in told[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return told


async def until_names(app: App, *expected: str) -> None:
    """Until these backends, and no others, are up."""
    while sorted(one.name for one in app.fleet.up) != sorted(expected):
        app._changed.clear()
        await app._changed.wait()


async def test_every_address_of_a_name_is_a_backend(
    engine: MakeEngine, router: MakeRouter, names: dict[str, list[str]]
):
    one = await engine(host="127.0.0.1")
    two = await engine(host="127.0.0.2", port=one.port)
    three = await engine(host="127.0.0.3", port=one.port)
    names["engines"] = ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
    app = await router(backends=[f"dns+http://engines:{one.port}"], up=2)
    await until_names(app, f"127.0.0.1:{one.port}", f"127.0.0.2:{one.port}")

    names["engines"] = ["127.0.0.2", "127.0.0.3"]
    await until_names(app, f"127.0.0.2:{one.port}", f"127.0.0.3:{one.port}")

    names["engines"] = []
    for first in range(4):
        assert (await complete(app, numbers(first, 4)))[0] == 200
    assert len(app.fleet.up) == 2
    assert one.asked == []
    assert {came.headers["Host"] for came in two.asked + three.asked} == {f"engines:{one.port}"}


def certificate(directory: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key, in files."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(cert_file), str(key_file)


async def test_tls_on_both_sides(engine: MakeEngine, router: MakeRouter, tmp_path: Path):
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    one = await engine(tls=context)
    app = await router(one, backend_tls={"ca_file": cert}, tls_cert_file=cert, tls_key_file=key)
    trusting = ssl.create_default_context(cafile=cert)
    async with aiohttp.ClientSession() as session:
        url = f"https://127.0.0.1:{app.port}/v1/completions"
        async with session.post(url, json={"prompt": [1]}, ssl=trusting) as answer:
            assert answer.status == 200
    assert len(one.asked) == 1


async def test_a_certificate_that_nobody_vouches_for_is_no_backend(
    engine: MakeEngine, router: MakeRouter, tmp_path: Path
):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(tmp_path))
    one = await engine(tls=context)
    app = await router(one, up=0)
    (backend,) = app.fleet.backends
    while "not asked" in backend.cause:  # noqa: ASYNC110 (only its first look tells)
        await asyncio.sleep(0.01)
    assert "certificate" in backend.cause.lower()
    assert app.fleet.up == []

    unchecked = await router(one, backend_tls={"verify": False})
    assert (await complete(unchecked, [1, 2, 3]))[0] == 200
