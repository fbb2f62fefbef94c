"""What `preble serve` is told: one struct, from a file or from flags.

1. The file is YAML or JSON. A key that does not exist, or a value of a wrong type, is
   refused with its place and what there is.
2. `--backend` flags make the same struct, and flags win over the file.
3. A secret is named by the file it is in, never written here; nothing of it is logged.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from preble_plugin.settings import Settings, SettingsError, load_settings

EVERY_ADDRESS: Final = "dns+"
"""Before a URL: each address of its host name is a backend."""
_SCHEMES: Final = ("http", "https", "dns+http", "dns+https")

_PLACEMENT: Final = (
    *("policy", "window_seconds", "receipts", "max_tree_blocks"),
    *("admin_socket", "record", "record_megabytes"),
)
"""The settings of the placement that mean something here."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class ServeConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and the remedy."""


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the ranks of a backend publish their cache events, where it does not say."""

    endpoint: str
    """`tcp://HOST:PORT` of rank 0; rank r publishes at the port plus r."""
    replay_endpoint: str | None = None
    """Likewise, where past events are replayed."""
    topic: str = ""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How https backends are verified."""

    ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    cert_file: str | None = None
    """A client certificate, with its key in `key_file`."""
    key_file: str | None = None
    verify: bool = True
    """False accepts any certificate."""


class BackendConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One server, or with `dns+` before its URL all that its host name resolves to."""

    url: str
    """`http://HOST:PORT`, with a path before the API's own if it has one."""
    api_key_file: str | None = None
    """A file with the key to ask the backend with, and to send with requests that
    bring none."""
    ranks: Annotated[int, Meta(ge=1, le=4096)] | None = None
    """Its data-parallel ranks, where it does not say."""
    events: Events | None = None
    """Where its cache events are read, where it does not say."""
    grpc_port: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """`--grpc-port` of vLLM's Rust front end, which tells block and cache size there."""


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything about one router. Only `backends` has no default."""

    backends: list[BackendConfig]
    """The servers to route to. A plain string is a URL."""
    host: str = "127.0.0.1"
    """The address to listen at; `0.0.0.0` for all of the machine."""
    port: Port = 8000
    """The public port; 0 takes a free one."""
    metrics_host: str = "127.0.0.1"
    """The address that metrics are served at."""
    metrics_port: Port | None = None
    """The port of `/metrics`, `/health` and `/backends`, apart from the public one;
    null serves none."""
    tls_cert_file: str | None = None
    """Certificate of the public port, which then speaks https."""
    tls_key_file: str | None = None
    """Its key."""
    backend_tls: Tls = Tls()
    """How https backends are verified."""
    tokenizer: str | None = None
    """Directory or name of the tokenizer; null takes what a backend names as its model."""
    chat_template: str | None = None
    """File with the chat template, where the engines were started with one."""
    tokenizer_threads: Annotated[int, Meta(ge=1, le=256)] = 4
    """Threads that tokenize."""
    tokenizer_cache_megabytes: Annotated[int, Meta(ge=0)] = 256
    """Bound on the token ids kept of message prefixes seen before."""
    pass_through: bool = True
    """False answers 404 to paths that the router does not know."""
    max_body_megabytes: Annotated[float, Meta(gt=0, le=4096)] = 64.0
    """Larger requests are answered with 413."""
    body_timeout_seconds: Seconds = 60.0
    """What a client has to send a request whole; after it, 408."""
    max_in_flight: Annotated[int, Meta(ge=1)] = 4096
    """Requests in flight over all backends; more are answered with 429."""
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    """Backends to try for a request none of which has begun to answer."""
    connect_timeout_seconds: Seconds = 5.0
    """To connect to a backend."""
    silence_timeout_seconds: Seconds = 3600.0
    """How long a backend may say nothing, before its answer begins or within it."""
    drain_timeout_seconds: Seconds = 60.0
    """What requests in flight have to end after SIGTERM."""
    health_interval_seconds: Seconds = 1.0
    """Between two looks at a backend."""
    health_timeout_seconds: Seconds = 5.0
    """For a backend to answer that it is well; SGLang, which generates a token for that and
    waits 20 s for it, has 25 at least."""
    failures_to_eject: Annotated[int, Meta(ge=1)] = 2
    """Looks in a row that fail before a backend gets no more requests."""
    placement: Settings = Settings()
    """Settings of the placement, as in docs/settings.md."""


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a configuration file, not checked yet. Raises `ServeConfigError`."""
    name = f"configuration {str(path)!r}"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ServeConfigError(f"{name} cannot be read: {reason}") from None
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            found = yaml.safe_load(text)
        else:
            found = json.loads(text)
    except ImportError:
        raise ServeConfigError(
            f"{name}: reading YAML needs pyyaml; install it or write the file as JSON"
        ) from None
    except Exception as error:
        raise ServeConfigError(
            f"{name} is neither YAML nor JSON that can be read: {error}"
        ) from None
    if not isinstance(found, dict):
        raise ServeConfigError(f"{name} holds no keys; write `backends: [http://HOST:PORT]`")
    return found


def make_config(given: Mapping[str, Any]) -> ServeConfig:
    """The configuration of these keys. Raises `ServeConfigError`."""
    keys = dict(given)
    _check_keys(keys, ServeConfig, "")
    placement = keys.pop("placement", None)
    backends = keys.get("backends")
    if not isinstance(backends, Sequence) or isinstance(backends, str) or not backends:
        raise ServeConfigError(
            "'backends' takes a list of at least one URL: give --backend http://HOST:PORT, or "
            "`backends: [http://HOST:PORT]` in the file"
        )
    keys["backends"] = [{"url": one} if isinstance(one, str) else one for one in backends]
    for one in keys["backends"]:
        if isinstance(one, dict):
            _check_keys(one, BackendConfig, "backends: ")
    try:
        made = msgspec.convert(keys, ServeConfig)
        if placement is not None:
            _check_placement(placement)
            made = msgspec.structs.replace(made, placement=load_settings(placement))
    except msgspec.ValidationError as error:
        raise ServeConfigError(f"configuration: {error}") from None
    except SettingsError as error:
        raise ServeConfigError(f"'placement': {error}") from None
    _check(made)
    return made


def _check_placement(given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ServeConfigError("'placement' takes keys, such as `placement: {policy: e2}`")
    foreign = set(given) & (set(Settings.__struct_fields__) - set(_PLACEMENT))
    if foreign:
        raise ServeConfigError(
            f"'placement': {', '.join(sorted(foreign))} is for placement inside an engine; the "
            f"router takes {', '.join(_PLACEMENT)}"
        )


def _check(config: ServeConfig) -> None:
    urls = [one.url for one in config.backends]
    for url in urls:
        check_url(url)
    twice = {url for url in urls if urls.count(url) > 1}
    if twice:
        raise ServeConfigError(f"'backends' has {', '.join(sorted(twice))} more than once")
    if (config.tls_cert_file is None) != (config.tls_key_file is None):
        raise ServeConfigError(
            "'tls_cert_file' and 'tls_key_file' are given together or not at all"
        )


def check_url(url: str) -> None:
    """Raise `ServeConfigError` for what is no backend's URL."""
    parts = urlsplit(url)
    try:
        wrong = parts.scheme not in _SCHEMES or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if parts.username or parts.password:
        raise ServeConfigError(
            f"backend {parts.hostname!r}: a URL takes no user or password; name a file with the "
            "key in 'api_key_file'"
        )
    if wrong or parts.query or parts.fragment:
        raise ServeConfigError(
            f"backend {url!r} is not http://HOST:PORT or https://HOST:PORT (with {EVERY_ADDRESS} "
            "before it, every address of the host)"
        )


def _check_keys(given: Mapping[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    known = list(get_type_hints(struct))
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=2, cutoff=0.5)
            meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise ServeConfigError(
                f"{where}unknown key {key!r}; {meant}there are: {', '.join(known)}"
            )
