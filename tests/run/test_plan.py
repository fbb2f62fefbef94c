"""What is run: one engine that places by itself, or several and a router."""

from __future__ import annotations

from pathlib import Path

import pytest

from preble_plugin.run.flags import RunError
from preble_plugin.run.plan import Inside
from tests.run.plans import apart, inside, planned


def test_vllm_gets_a_rank_for_each_device_and_preble() -> None:
    assert inside("vllm", "--max-model-len", "9", port=8123) == [
        *("serve", "M", "--port", "8123", "--data-parallel-size", "8"),
        *("--dp-scheduler", "preble", "--max-model-len", "9"),
    ]


def test_sglang_gets_a_rank_for_each_device_and_preble() -> None:
    assert inside("sglang", "--enable-metrics", host="0.0.0.0") == [
        *("--model-path", "M", "--host", "0.0.0.0", "--port", "8000", "--dp-size", "8"),
        *("--dp-scheduler", "preble", "--enable-metrics"),
    ]


@pytest.mark.parametrize(
    ("engine", "flags", "replicas"),
    [
        ("vllm", ["-tp", "2"], 4),
        ("vllm", ["--tensor_parallel_size=2", "-pp", "2"], 2),
        ("vllm", ["--prefill-context-parallel-size", "4"], 2),
        ("sglang", ["--tp-size", "2", "--pp-size", "2"], 2),
        ("sglang", ["--tp=8", "--attn-dp-size", "8"], 1),
        ("sglang", ["--tp", "2", "--tp", "4", "--attn-dp-size", "1"], 2),
        ("sglang", ["--tp", "8", "--dp-size", "8", "--enable-dp-attention"], 8),
    ],
)
def test_a_replica_takes_its_parallel_sizes(engine: str, flags: list[str], replicas: int) -> None:
    found = inside(engine, *flags)
    name = "--data-parallel-size" if engine == "vllm" else "--dp-size"
    assert found[found.index(name) + 1] == str(replicas)


def test_devices_that_stay_idle_are_told() -> None:
    found = planned("vllm", "-tp", "3")
    assert isinstance(found, Inside)
    assert found.remark == "2 of 8 devices stay idle"


@pytest.mark.parametrize(
    ("engine", "flags"),
    [
        (
            "vllm",
            ("--data-parallel-size", "4", "--dp-scheduler=auto", "--port", "1", "--model", "X"),
        ),
        ("vllm", ("-dp", "4", "--dp_scheduler", "preble", "--port=1", "--model=X")),
        ("sglang", ("--dp-size=4", "--dp-scheduler", "preble", "--port", "1", "--model", "X")),
    ],
)
def test_what_the_user_gives_is_not_given_twice(engine: str, flags: tuple[str, ...]) -> None:
    found = inside(engine, *flags, model=None, devices=0)
    assert found == (["serve", *flags] if engine == "vllm" else list(flags))


def test_what_is_in_the_engines_file_counts_as_given(tmp_path: Path) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text(
        "model: X\ndata_parallel_size: 2\ndp-scheduler: preble\nport: 7\nheadless: false"
    )
    assert inside("vllm", "--config", str(path), model=None, devices=0) == [
        *("serve", "--config", str(path))
    ]


@pytest.mark.parametrize(
    ("engine", "flags", "said", "word"),
    [
        ("vllm", ["-dp", "2"], {"replicas": 4}, "--replicas 4, and --data-parallel-size"),
        ("sglang", ["--dp-size", "2"], {"replicas": 4}, "--replicas 4, and --dp-size"),
        ("vllm", ["--port", "9"], {"port": 8}, "--port 8, and the same flag behind -- says 9"),
        ("vllm", ["--model", "X"], {}, "--model M, and the same flag behind -- says X"),
        ("vllm", [], {"model": None}, "give --model"),
        ("vllm", [], {"devices": 0}, "say how many replicas, --replicas N"),
        ("sglang", ["--device", "cpu"], {}, "say how many replicas, --replicas N"),
        ("sglang", ["--base-gpu-id", "2"], {}, "with --base-gpu-id say how many replicas"),
        ("vllm", ["-tp", "16"], {}, "a replica takes 16 devices and 8 are visible"),
        ("vllm", ["-tp", "two"], {}, "--tensor-parallel-size takes a number from 1 on, got 'two'"),
        ("vllm", ["--config", "/none.yaml"], {}, "--config '/none.yaml' cannot be read"),
        ("vllm", [], {"separate": True, "replicas": 9}, "9 replicas of 1 device(s) need 9, and 8"),
        ("vllm", ["--api-key", "k"], {"separate": True}, "--api-key: the router"),
        ("vllm", [], {"separate": True, "environment": {"VLLM_API_KEY": "k"}}, "VLLM_API_KEY: the"),
        ("vllm", ["--ssl-keyfile", "k"], {"separate": True}, "tls_key_file in --router-config"),
        ("vllm", ["-dpr", "1"], {"separate": True, "replicas": 2}, "-dpr is for one engine"),
        ("sglang", ["--nccl-port", "1"], {"separate": True}, "--nccl-port is for one engine"),
        ("vllm", ["--kv-events-config", "{}"], {"separate": True}, "would be the same for all"),
        ("vllm", [], {"separate": True, "port": 65_535}, "no port is free from 65536 on"),
        ("vllm", [], {"environment": {"PREBLE_CONFIG": '{"no": 1}'}}, "unknown"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_remedy(
    engine: str, flags: list[str], said: dict[str, object], word: str
) -> None:
    with pytest.raises(RunError) as refused:
        planned(engine, *flags, **said)  # type: ignore[arg-type]
    assert word in str(refused.value)


def test_replicas_apart_share_the_devices_out() -> None:
    found = apart("vllm", "-tp", "2", separate=True, replicas=3, port=8000, taken=(8002,))
    assert [one.environment["CUDA_VISIBLE_DEVICES"] for one in found.backends] == [
        *("0,1", "2,3", "4,5")
    ]
    assert [one.port for one in found.backends] == [8001, 8003, 8004]
    assert [one["url"] for one in found.router_keys()["backends"]] == [
        f"http://127.0.0.1:{port}" for port in (8001, 8003, 8004)
    ]
    assert (found.host, found.port) == ("127.0.0.1", 8000)


def test_the_number_of_ranks_is_that_of_the_engines_apart() -> None:
    found = apart("vllm", "-dp", "3", separate=True, devices=0)
    assert len(found.backends) == 3
    command = found.backends[0].command
    assert command[-4:-2] == ("--data-parallel-size", "1")
    assert found.backends[0].environment == {"PREBLE_DP_SCHEDULER": "auto"}


def test_the_router_reads_the_events_where_each_engine_publishes_them() -> None:
    found = apart("sglang", separate=True, replicas=2)
    for place, entry in enumerate(found.router_keys()["backends"]):
        assert entry["events"]["endpoint"] == f"ipc:///run/{place}/inproc-e"
        assert entry["events"]["endpoint"] in found.backends[place].command[-1]


@pytest.mark.parametrize(
    ("engine", "flags", "said", "word"),
    [
        ("vllm", [], {"separate": True}, "--separate"),
        ("vllm", [], {"environment": {"VLLM_USE_RUST_FRONTEND": "1"}}, "VLLM_USE_RUST_FRONTEND"),
        ("sglang", [], {"environment": {"SGLANG_RUST_SERVER": "true"}}, "SGLANG_RUST_SERVER"),
        ("vllm", [], {"version": "0.40.0"}, "preble relies on module:Other, and in vLLM 0.40.0"),
        ("sglang", [], {"version": "0.5.9"}, "preble relies on module:Other, and in SGLang 0.5.9"),
        ("sglang", ["--tp", "4", "--attn-dp-size", "4"], {}, "with --attn-dp-size"),
    ],
)
def test_engines_run_apart_where_one_cannot_place(
    engine: str, flags: list[str], said: dict[str, object], word: str
) -> None:
    assert word in apart(engine, *flags, **said).reason


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dp-scheduler", "preble"], {"version": "0.40.0"}),
        (["--dp-scheduler-config", "{}"], {"environment": {"VLLM_USE_RUST_FRONTEND": "1"}}),
        ([], {"version": "0.40.0", "broken": False}),
        ([], {"version": "0.32.7"}),
        ([], {"environment": {"VLLM_USE_RUST_FRONTEND": "0"}}),
    ],
)
def test_one_engine_is_run_where_the_user_chose_it_or_it_can(
    flags: list[str], said: dict[str, object]
) -> None:
    assert "--data-parallel-size" in inside("vllm", *flags, **said)


def test_an_engine_whose_contract_is_broken_is_left_as_it_is() -> None:
    (one, *_) = apart("vllm", version="0.40.0").backends
    assert "PREBLE_DP_SCHEDULER" not in one.environment


def test_ranks_inside_a_replica_stay_inside() -> None:
    found = apart("sglang", "--tp", "4", "--dp-size", "4", "--enable-dp-attention", replicas=2)
    first, second = found.backends
    assert first.command[-4:] == ("--host", "127.0.0.1", "--port", str(first.port))
    assert second.port - first.port >= 20
    assert first.environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert "events" not in found.router_keys()["backends"][0]
