# An image for CPUs, or with FLAVOUR=gpu for NVIDIA's GPUs.
#
# `make image` builds it with whatever this machine has (deploy/build.sh). By hand, on Linux:
#
#   docker build --build-arg PIP_ARGS="--extra-index-url <torch's CPU index>" .
#
# A secret named "pip" becomes pip's configuration (mirror, credentials); no layer keeps it.

ARG FLAVOUR=cpu
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
# Torch's wheels bring cuBLAS, cuDNN and the rest, and ONNX Runtime uses what torch has loaded: the
# "runtime" flavour of this image would hold them twice.
ARG CUDA_IMAGE=docker.io/nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${PYTHON_IMAGE} AS cpu-base
ENV RHEOSTAT_DEVICE=cpu

# With a compiler: Triton builds what launches the kernels that torch compiles.
FROM ${CUDA_IMAGE} AS gpu-base
RUN apt-get update && \
    apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv && \
    rm -rf /var/lib/apt/lists/*
ENV RHEOSTAT_DEVICE=cuda \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/rheostat/inductor

FROM ${FLAVOUR}-base AS wheel
ARG PIP_ARGS=""
WORKDIR /src
RUN python3 -m venv /opt/build
COPY constraints.txt ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/pip install --no-cache-dir -c constraints.txt hatchling ${PIP_ARGS}
COPY LICENSE README.md pyproject.toml ./
COPY models models
COPY search search
COPY server server
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist .

# Dependencies are a layer of their own, which changes with their versions and not with the code.
FROM ${FLAVOUR}-base AS build
ARG FLAVOUR
ARG PIP_ARGS=""
WORKDIR /src
RUN python3 -m venv /opt/build
COPY constraints.txt pyproject.toml deploy/install.sh deploy/requirements.py ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    sh install.sh dependencies "${FLAVOUR}" grpc otel postgres
COPY --from=wheel /dist /dist
RUN sh install.sh wheel /dist/*.whl

# It runs as a user with a name, for which torch asks. Its root file system may be read-only: what is
# written goes to /var/lib/rheostat, the home, and to /tmp. It listens on every address, so the server
# starts with keys or with RHEOSTAT_OPEN=true.
FROM ${FLAVOUR}-base
RUN useradd --uid 10001 --no-log-init --create-home --home-dir /var/lib/rheostat rheostat
COPY --from=build /opt/rheostat /opt/rheostat
COPY --from=build /app /
ENV PATH=/opt/rheostat/bin:$PATH \
    PROMETHEUS_DISABLE_CREATED_SERIES=true \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    RHEOSTAT_HOST=0.0.0.0 \
    RHEOSTAT_PORT=8000 \
    RHEOSTAT_PROFILES=/var/lib/rheostat/profiles
WORKDIR /var/lib/rheostat
VOLUME /var/lib/rheostat
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['RHEOSTAT_PORT']), timeout=3); server.request('GET', '/readyz'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["rheostat"]
CMD ["serve"]
# Last, since every commit has another.
ARG REVISION=""
LABEL org.opencontainers.image.title="Rheostat" \
      org.opencontainers.image.description="A runtime-adaptive inference server with budget-aware model slicing." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
