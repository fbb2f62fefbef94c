# An engine's own image with preble in it. From the repository's root:
#
#   docker build -f examples/compose/engine.Dockerfile -t vllm-preble:v0.32.0 .
#   docker build -f examples/compose/engine.Dockerfile -t sglang-preble:v0.5.23 \
#     --build-arg ENGINE=lmsysorg/sglang:v0.5.23 .
#
# What preble needs of others (msgspec, pyzmq, numpy) both engines have already: --no-deps
# leaves every version of the image as it is.
ARG ENGINE=vllm/vllm-openai:v0.32.0
FROM ${ENGINE}
WORKDIR /opt/preble-plugin
COPY pyproject.toml README.md LICENSE ./
COPY preble_plugin preble_plugin
RUN python3 -m pip install --no-cache-dir --no-deps --break-system-packages . \
 && preble --help > /dev/null
WORKDIR /
