"""Four replicas of a model behind preble: `python examples/ray/serve_llm.py`."""

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.llm import LLMConfig, build_openai_app

llm = LLMConfig(
    model_loading_config={"model_id": "qwen", "model_source": "Qwen/Qwen2.5-7B-Instruct"},
    accelerator_type="A10G",
    deployment_config={
        "num_replicas": 4,
        "request_router_config": RequestRouterConfig(
            request_router_class="preble_plugin.ray_ext.router:PrebleRouter",
            request_router_kwargs={"capacity_tokens": 120_000},
        ),
    },
    engine_kwargs={"max_model_len": 32768},
)

if __name__ == "__main__":
    serve.run(build_openai_app({"llm_configs": [llm]}), blocking=True)
