"""The configuration: what it takes, and what it says of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from preble_plugin.serve.config import (
    BackendConfig,
    Events,
    ServeConfigError,
    Tls,
    make_config,
    read_config,
)
from preble_plugin.settings import Settings


def test_a_file_says_it_all(tmp_path: Path):
    path = tmp_path / "serve.yaml"
    path.write_text(
        "backends:\n- http://a:8000\n"
        "- url: dns+https://b\n  ranks: 4\n  events: {endpoint: 'tcp://*:5557'}\n"
        "port: 9000\nbackend_tls: {verify: false}\nplacement: {policy: least-loaded}\n"
    )
    config = make_config(read_config(path))

    assert config.backends == [
        BackendConfig("http://a:8000"),
        BackendConfig("dns+https://b", ranks=4, events=Events("tcp://*:5557")),
    ]
    assert (config.port, config.host, config.metrics_port) == (9000, "127.0.0.1", None)
    assert (config.backend_tls, config.placement) == (
        Tls(verify=False),
        Settings(policy="least-loaded"),
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "'backends' takes a list of at least one URL"),
        ({"backends": "http://a:1"}, "'backends' takes a list"),
        ({"backend": ["http://a:1"]}, "unknown key 'backend'; did you mean 'backends'"),
        ({"backends": [{"uri": "http://a:1"}]}, "backends: unknown key 'uri'"),
        ({"backends": [{}]}, "missing required field `url`"),
        ({"backends": ["a:1"]}, "'a:1' is not http://HOST:PORT"),
        ({"backends": ["ftp://a:1"]}, "is not http://HOST:PORT"),
        ({"backends": ["http://a:99999"]}, "is not http://HOST:PORT"),
        ({"backends": ["http://a:1/?x=1"]}, "is not http://HOST:PORT"),
        ({"backends": ["http://a:1", "http://a:1"]}, "http://a:1 more than once"),
        ({"backends": ["http://a:1"], "port": "x"}, "Expected `int`, got `str` - at `$.port`"),
        ({"backends": ["http://a:1"], "port": 70_000}, "$.port"),
        ({"backends": ["http://a:1"], "placement": {"polcy": 1}}, "did you mean 'policy'"),
        ({"backends": ["http://a:1"], "placement": {"shadow": True}}, "'placement': shadow is for"),
        ({"backends": ["http://a:1"], "placement": "e2"}, "'placement' takes keys"),
        ({"backends": ["http://a:1"], "tls_cert_file": "x"}, "given together"),
    ],
)
def test_what_cannot_be_used_is_named(keys: dict[str, object], words: str):
    with pytest.raises(ServeConfigError) as raised:
        make_config(keys)
    assert words in str(raised.value)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(ServeConfigError, match="api_key_file") as raised:
        make_config({"backends": ["http://user:hush@a:1"]})
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "\x00"])
def test_a_file_that_holds_no_keys_is_named(tmp_path: Path, text: str):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(ServeConfigError, match=r"serve\.yaml"):
        read_config(path)
