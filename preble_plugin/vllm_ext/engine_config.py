"""What is done where vLLM builds an engine's configuration.

1. Our keys of `additional_config` are kept out of the configuration, whatever
   is chosen: vLLM hashes that field. With `default` this is all.
2. Otherwise the finished configuration is prepared, before any model is loaded:
   what cannot work is refused, or under `auto` left to vLLM with one warning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from preble_plugin.adapter.choice import SCHEDULER_KEY, DpScheduler, choose, split
from preble_plugin.settings import SettingsError
from preble_plugin.vllm_ext import hooks


def create(original: Callable[[], Any], engine_args: Any, usage: Any, headless: bool) -> Any:
    """Stands in for `EngineArgs.create_engine_config`, which `original` calls.

    Raises `SettingsError` and `CannotWork`, both ValueErrors with a remedy.
    """
    ours: dict[str, Any] = {}
    given = engine_args.additional_config
    if isinstance(given, Mapping):
        ours, others = split(given)
    if ours:
        engine_args.additional_config = others
    try:
        config = original()
    finally:
        if ours:
            engine_args.additional_config = given
    choice = choose(ours, os.environ, f"additional_config[{SCHEDULER_KEY!r}]")
    if choice.scheduler is DpScheduler.DEFAULT:
        return config
    from preble_plugin.adapter.refusals import CannotWork
    from preble_plugin.vllm_ext.prepare import prepare

    hooks.adopt_logger()
    auto = choice.scheduler is DpScheduler.AUTO
    try:
        warnings = prepare(config, choice.settings, auto, headless, hooks.offline(usage))
    except CannotWork as refusal:
        if not auto:
            raise
        warnings = [f"vLLM's own dispatch is used. {refusal}"]
    except Exception as fault:
        if not auto or isinstance(fault, SettingsError):
            raise
        warnings = [f"vLLM's own dispatch is used. preble could not start: {fault!r}"]
    if not hooks.is_child(engine_args):
        for warning in warnings:
            hooks.logger().warning(warning)
    return config


def bypassed(engine_args: Any, by: str) -> None:
    """A configuration was created and `create` was not called, but what `by` names.

    Raises `CannotWork` where placement was chosen, and warns under `auto`.
    """
    given = engine_args.additional_config
    ours = split(given)[0] if isinstance(given, Mapping) else {}
    scheduler = choose(ours, os.environ).scheduler
    auto = scheduler is DpScheduler.AUTO
    if scheduler is not DpScheduler.DEFAULT and not (auto and hooks.is_child(engine_args)):
        from preble_plugin.adapter.refusals import refuse
        from preble_plugin.vllm_ext.known import VLLM

        refuse(
            f"--dp-scheduler preble prepares what EngineArgs.create_engine_config makes, and {by} "
            "was put in its place: leave out the plugin that does so",
            auto=auto,
            log=hooks.logger(),
            title=VLLM.title,
        )
