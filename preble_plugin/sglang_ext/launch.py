"""What is done in the launching process, before a server's processes are spawned.

1. Our keys are taken out of the arguments, wherever they come from. The choice
   they make stays with the record that SGLang builds of the others.
2. All ways in meet where SGLang checks the record it has resolved. The contract with
   SGLang is verified there; what cannot work is refused, or under `auto` left to SGLang
   with one warning: then nothing has changed.
3. Else the record gets the load balancing method `total_tokens` and, if the user gave no
   `--kv-events-config`, one on unix sockets in a private directory; and the processes to
   be spawned are told so (`launch_env`).
4. Whether the schedulers put in order what waits is a choice of its own. With one
   rank there is nothing else to do, and nothing of the record changes.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import msgspec

from preble_plugin.adapter.choice import CONFIG_KEY, SCHEDULER_KEY, DpScheduler, choose
from preble_plugin.adapter.contract import verify
from preble_plugin.adapter.event_endpoints import events_directory, local_endpoints
from preble_plugin.adapter.flag import add_arguments
from preble_plugin.adapter.local_queue import local_queue_wanted
from preble_plugin.adapter.refusals import INSTEAD, CannotWork
from preble_plugin.service.checks import check_settings
from preble_plugin.service.run_dir import RunDirError, ServerDirectory
from preble_plugin.settings import Settings, SettingsError
from preble_plugin.sglang_ext import hooks, launch_env
from preble_plugin.sglang_ext.contract import CONTRACT
from preble_plugin.sglang_ext.facts import FCFS, LaunchFacts
from preble_plugin.sglang_ext.known import SGLANG
from preble_plugin.sglang_ext.launch_env import Launch
from preble_plugin.sglang_ext.outcomes import outcomes_address
from preble_plugin.sglang_ext.refusals import ENCODER, check_launch, check_method, check_queue

_METHOD: Final = "load_balance_method"
_EVENTS: Final = "kv_events_config"
_kept: Final[list[ServerDirectory]] = []
"""What lives as long as this process."""


class _Note(msgspec.Struct, frozen=True):
    """What stays with a record."""

    scheduler: DpScheduler
    settings: Settings
    method: str
    """Its load balancing method as the user gave it."""


def watch() -> None:
    """Take the flags, and look at each server that this process launches."""
    hooks.wrap_cli_args(add_flags)
    hooks.wrap_from_cli_args(take_keys)
    if hooks.loaded(hooks.ENGINE):
        hooks.wrap_engine_arguments(take_keys)
    hooks.wrap_check(decide)


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags. Raises `CannotWork` where they would do nothing."""
    _check_hold()
    add_arguments(parser, "SGLang")


def take_keys(arguments: MutableMapping[str, Any]) -> str:
    """Take our keys out of the fields of a `ServerArgs` to be; the answer is a note for
    `decide`.

    Raises `SettingsError` and `CannotWork`, both ValueErrors with a remedy.
    """
    ours = {key: arguments.pop(key) for key in (SCHEDULER_KEY, CONFIG_KEY) if key in arguments}
    ours = {key: value for key, value in ours.items() if value is not None}
    method = str(arguments.get(_METHOD) or "auto").lower()
    choice = choose(ours, os.environ)
    if choice.scheduler is DpScheduler.PREBLE:
        _check_hold()
    if choice.scheduler is not DpScheduler.DEFAULT and arguments.get("encoder_only"):
        if choice.scheduler is DpScheduler.PREBLE:
            raise CannotWork(ENCODER)
        _warn(ENCODER)
    return msgspec.json.encode(_Note(*choice, method)).decode()


def decide(read: Callable[[], LaunchFacts], method: str, note: str | None) -> Mapping[str, str]:
    """The fields of a record that are to be others when a server is launched with
    it. Whether its requests will be placed is known to its children by `launch_env`.

    `read` reads the record, `method` is its load balancing method, and `note` what
    `take_keys` said of it, if it was asked. Raises `CannotWork`, `SettingsError`.
    """
    launch_env.clear()
    if note is not None:
        found = msgspec.json.decode(note, type=_Note)
    else:
        found = _Note(*choose({}, os.environ), method.lower())
    if found.scheduler is DpScheduler.DEFAULT:
        return {}
    auto = found.scheduler is DpScheduler.AUTO
    try:
        return _place(read, found, auto)
    except SettingsError:
        raise
    except CannotWork as refusal:
        if not auto:
            raise
        reason = str(refusal)
    except Exception as fault:
        if not auto:
            raise
        reason = f"preble could not start: {fault!r}"
    _warn(reason)
    return {}


def _place(read: Callable[[], LaunchFacts], found: _Note, auto: bool) -> Mapping[str, str]:
    settings = found.settings
    warnings = verify(SGLANG, hooks.version(), CONTRACT)
    _check_hold()
    check_method(found.method)
    facts = read()
    check_settings(settings)
    queue = check_queue(facts, settings)
    if facts.ranks == 1 and queue:
        hooks.logger().info("one data-parallel rank: what waits is put in order, nothing is placed")
        _say(warnings)
        launch_env.export(Launch(settings, queue=True, auto=auto))
        return {}
    check_launch(facts)
    if facts.schedule_policy != FCFS and local_queue_wanted(settings, prefix_caching=True):
        warnings.append(
            f"--schedule-policy {facts.schedule_policy} orders what waits, and not preble's local "
            "queue: leave it out, or set local_queue to off."
        )
    directory = _directory()
    changes = {_METHOD: hooks.METHOD}
    if facts.events is None:
        changes[_EVENTS] = hooks.events_json(*local_endpoints(directory.path))
    _say(warnings)
    launch_env.export(Launch(settings, outcomes_address(directory.path), queue, auto))
    return changes


def _say(warnings: Sequence[str]) -> None:
    for warning in warnings:
        hooks.logger().warning(warning)


def _warn(reason: str) -> None:
    hooks.logger().warning("SGLang's own dispatch is used. %s", reason)


def _check_hold() -> None:
    """Raise `CannotWork` where SGLang could not be taken hold of."""
    if missing := hooks.missing():
        raise CannotWork(
            f"--dp-scheduler preble could not take hold of {', '.join(missing)} in SGLang "
            f"{hooks.version()}: use a version it is tested on, {INSTEAD}."
        )


def _directory() -> ServerDirectory:
    """A directory for the sockets of one server."""
    try:
        _kept.append(events_directory())
    except RunDirError as error:
        raise CannotWork(f"--dp-scheduler preble: {error}.") from error
    return _kept[-1]
