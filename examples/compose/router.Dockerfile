# `preble serve` alone, without an engine or a GPU. From the repository's root:
#
#   docker build -f examples/compose/router.Dockerfile -t preble-router:0.1.0 .
#
# The first stage has a C compiler, for the fast half of the prefix tree; the second has not.
FROM python:3.12 AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY preble_plugin preble_plugin
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[serve]" && rm -r /wheels
RUN useradd --uid 1000 --create-home preble
USER 1000
ENTRYPOINT ["preble", "serve"]
