"""The Kubernetes examples against the API's own schemas, and against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.examples.example_files import (
    KUBERNETES,
    Command,
    Pod,
    commands,
    documents,
    objects,
    pods,
)

OLDEST = "1.30"
"""Where `preStop` has `sleep`."""
GROUPS: dict[str, Any] = json.loads((Path(__file__).parent / "leader_worker_set.json").read_text())
PODS = list(pods())
EACH_POD = pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.where)


def number(command: Command, flag: str) -> float | None:
    """What `--flag=NUMBER` says."""
    found = [word for word in command.words if word.startswith(f"{flag}=")]
    return float(found[-1].partition("=")[2]) if found else None


def rules(pod: Pod) -> Iterator[dict[str, Any]]:
    """What may reach a pod, by all policies that select it."""
    for policy in objects("NetworkPolicy"):
        if policy["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items():
            yield from policy["spec"]["ingress"]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_each_object_is_one_that_kubernetes_knows(path: Path) -> None:
    for one in documents(path):
        if one["kind"] == "LeaderWorkerSet":
            jsonschema.validate(one, GROUPS)
        else:
            kubernetes_validate.validate(one, OLDEST, strict=True)


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    (service, *_) = objects("Service")
    with pytest.raises(jsonschema.ValidationError, match="clusterIp"):
        kubernetes_validate.validate(
            {**service, "spec": {**service["spec"], "clusterIp": "None"}}, OLDEST, strict=True
        )


@EACH_POD
def test_each_pod_template_is_one_of_kubernetes(pod: Pod) -> None:
    named = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}}
    kubernetes_validate.validate({**named, "template": pod.template}, OLDEST, strict=True)


@EACH_POD
def test_a_pod_lives_longer_than_its_requests_have_to_end(pod: Pod) -> None:
    hook = pod.container.get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
    drain = number(pod.command, "--shutdown-timeout") or 0
    assert hook["sleep"]["seconds"] + drain < pod.template["spec"]["terminationGracePeriodSeconds"]


@EACH_POD
def test_probes_name_ports_that_a_pod_has(pod: Pod) -> None:
    named = {one["name"] for one in pod.container.get("ports", ())}
    probes = [value for key, value in pod.container.items() if key.endswith("Probe")]
    assert {probe["httpGet"]["port"] for probe in probes} <= named
    assert bool(probes) == ("http" in named)


@EACH_POD
def test_only_the_port_of_the_api_is_open_to_all(pod: Pod) -> None:
    """So that cache events, which carry prompts, are read by those that policies name."""
    found = list(rules(pod))
    assert found, "no policy selects it"
    (http,) = [one["containerPort"] for one in _ports(pod, "http")] or [8000]
    for rule in found:
        if "from" not in rule:
            assert [one["port"] for one in rule["ports"]] == [http]


@EACH_POD
def test_ports_of_cache_events_are_those_of_the_command_and_the_routers_to_read(pod: Pod) -> None:
    words = pod.command.words
    if "--kv-events-config" not in words:
        assert not [*_ports(pod, "kv-events"), *_ports(pod, "kv-replay")]
        return
    events = json.loads(words[words.index("--kv-events-config") + 1])
    told = [int(events[key].rpartition(":")[2]) for key in ("endpoint", "replay_endpoint")]
    if pod.group.get("LWS_WORKER_INDEX") != "1":  # whose command is the leader's
        opened = [
            one["containerPort"] for key in ("kv-events", "kv-replay") for one in _ports(pod, key)
        ]
        assert opened == told
        router = {"podSelector": {"matchLabels": {"app": "preble"}}}
        (rule,) = [rule for rule in rules(pod) if rule.get("from") == [router]]
        assert [one["port"] for one in rule["ports"]] == [8000, *told]


def test_each_service_leads_to_pods_that_serve() -> None:
    for service in objects("Service"):
        selector = service["spec"]["selector"].items()
        chosen = [pod for pod in PODS if selector <= pod.labels.items()]
        assert chosen, service["metadata"]["name"]
        for pod in chosen:
            ports = {one["name"]: one["containerPort"] for one in pod.container["ports"]}
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                assert target in ports or target in ports.values()


def test_no_service_takes_the_name_of_the_one_that_a_group_has() -> None:
    """LeaderWorkerSet makes a headless one, by which its pods find each other."""
    groups = {one["metadata"]["name"] for one in objects("LeaderWorkerSet")}
    assert groups
    assert not groups & {one["metadata"]["name"] for one in objects("Service")}


def test_workers_are_started_as_their_leaders_say() -> None:
    by_name = {pod.where: pod.command for pod in PODS}
    leader, worker = (
        by_name[f"vllm-two-nodes.yaml vllm-two-nodes {role}"] for role in ("leader", "worker")
    )
    for flag in ("--data-parallel-size", "--data-parallel-size-local", "--data-parallel-rpc-port"):
        assert number(leader, flag) == number(worker, flag) is not None
    assert number(worker, "--data-parallel-start-rank") == number(
        leader, "--data-parallel-size-local"
    )
    assert "--headless" in worker.words
    assert "--headless" not in leader.words


def _ports(pod: Pod, name: str) -> list[dict[str, Any]]:
    return [one for one in pod.container.get("ports", ()) if one["name"] == name]


def test_images_are_of_the_versions_that_are_tested_and_have_preble_where_it_is_asked_for(
    tested_versions: dict[str, str],
) -> None:
    for command in commands():
        if command.image is None or command.program == "preble":
            continue
        name, _, tag = command.image.partition(":")
        assert tag == f"v{tested_versions[command.program]}", command
        assert name.endswith("-preble") == ("--dp-scheduler=preble" in command.words), command
