"""What the examples tell `preble serve`, read as it reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from preble_plugin.cli.serve import add_serve, configuration
from preble_plugin.serve.config import ServeConfig
from tests.examples.example_files import COMPOSE, EXAMPLES, Command, commands, documents, objects

FOR_ALL = Path("/etc/preble/serve.yaml")
"""Where each of them has the file."""


def told(where: str) -> str:
    """What that file says there."""
    if where.startswith("router.yaml preble"):
        (found,) = objects("ConfigMap")
        return str(found["data"][FOR_ALL.name])
    if where.startswith("router.yaml"):
        (path,) = [path for path in COMPOSE if path.name == "router.yaml"]
        return str(documents(path)[0]["configs"]["serve"]["content"])
    return (EXAMPLES / "serve" / "preble-serve.yaml").read_text()


def read(command: Command, tmp_path: Path) -> ServeConfig:
    """The configuration of a command, its file put where this machine has it."""
    parser = argparse.ArgumentParser()
    add_serve(parser.add_subparsers())
    options = parser.parse_args(["serve", *command.arguments])
    assert options.config == FOR_ALL
    options.config = tmp_path / "serve.yaml"
    options.config.write_text(told(command.where))
    return configuration(options)


ROUTERS = [command for command in commands() if command.program == "preble"]


@pytest.mark.parametrize("command", ROUTERS, ids=str)
def test_a_router_is_told_what_it_understands(command: Command, tmp_path: Path) -> None:
    config = read(command, tmp_path)
    assert config.backends
    assert config.metrics_port == 9090


def test_three_ways_to_run_a_router_are_shown() -> None:
    assert [one.where.split()[0] for one in ROUTERS] == [
        *2 * ["router.yaml"],  # Kubernetes, Compose
        "preble-serve.service",
    ]


def test_in_compose_its_backends_are_services_of_the_same_file(tmp_path: Path) -> None:
    (path,) = [path for path in COMPOSE if path.name == "router.yaml"]
    (command,) = [one for one in ROUTERS if one.where == "router.yaml router"]
    urls = {one.url for one in read(command, tmp_path).backends}
    engines = set(documents(path)[0]["services"]) - {"router"}
    assert urls == {f"http://{name}:8000" for name in engines}


def test_in_kubernetes_they_are_the_addresses_of_a_headless_service(tmp_path: Path) -> None:
    (command,) = [one for one in ROUTERS if one.where == "router.yaml preble"]
    config = read(command, tmp_path)
    (headless,) = [one for one in objects("Service") if one["spec"].get("clusterIP") == "None"]
    name = headless["metadata"]["name"]
    assert [one.url for one in config.backends] == [f"dns+http://{name}:8000"]
    (deployment,) = [one for one in objects("Deployment") if one["metadata"]["name"] == "preble"]
    pod = deployment["spec"]["template"]["spec"]
    sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep + config.drain_timeout_seconds < pod["terminationGracePeriodSeconds"]
