# Two images: `docker build --target cpu .` and `docker build --target gpu .`
#
# `make image` builds them with whatever this machine has (deploy/build.sh). By hand, on Linux:
#
#   docker build --target cpu --build-arg PIP_ARGS="--extra-index-url <torch's CPU index>" .
#
# A secret named "pip" becomes pip's configuration (mirror, credentials); no layer keeps it.

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
# Torch's wheels bring cuBLAS, cuDNN and the rest, and ONNX Runtime uses what torch has loaded: the
# "runtime" flavour of this image would hold them twice.
ARG CUDA_IMAGE=docker.io/nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${PYTHON_IMAGE} AS python

# With a compiler: Triton builds what launches the kernels that torch compiles.
FROM ${CUDA_IMAGE} AS cuda
RUN apt-get update && \
    apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv && \
    rm -rf /var/lib/apt/lists/*

# The wheels of server and client, built once for both.
FROM python AS wheel
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
COPY client client
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . ./client

# Dependencies are a layer of their own, which changes with their versions and not with the code.
FROM python AS cpu-build
ARG PIP_ARGS=""
WORKDIR /src
RUN python3 -m venv /opt/build
COPY constraints.txt pyproject.toml deploy/install.sh deploy/requirements.py ./
COPY client/pyproject.toml client/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh install.sh dependencies cpu grpc otel postgres
COPY --from=wheel /dist /dist
RUN sh install.sh wheels /dist/*.whl

FROM cuda AS gpu-build
ARG PIP_ARGS=""
WORKDIR /src
RUN python3 -m venv /opt/build
COPY constraints.txt pyproject.toml deploy/install.sh deploy/requirements.py ./
COPY client/pyproject.toml client/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf sh install.sh dependencies gpu grpc otel postgres
COPY --from=wheel /dist /dist
RUN sh install.sh wheels /dist/*.whl

# Both images run as a user with a name, for which torch asks. Their root file system may be
# read-only: what is written goes to /var/lib/rheostat, the home, and to /tmp. They listen on every
# address, so the server starts with keys or with RHEOSTAT_OPEN=true.
FROM cuda AS gpu
RUN useradd --uid 10001 --no-log-init --create-home --home-dir /var/lib/rheostat rheostat
COPY --from=gpu-build /opt/rheostat /opt/rheostat
COPY --from=gpu-build /app /
ENV PATH=/opt/rheostat/bin:$PATH \
    PROMETHEUS_DISABLE_CREATED_SERIES=true \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    RHEOSTAT_DEVICE=cuda \
    RHEOSTAT_HOST=0.0.0.0 \
    RHEOSTAT_PORT=8000 \
    RHEOSTAT_PROFILES=/var/lib/rheostat/profiles \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/rheostat/inductor
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

FROM python AS cpu
RUN useradd --uid 10001 --no-log-init --create-home --home-dir /var/lib/rheostat rheostat
COPY --from=cpu-build /opt/rheostat /opt/rheostat
COPY --from=cpu-build /app /
ENV PATH=/opt/rheostat/bin:$PATH \
    PROMETHEUS_DISABLE_CREATED_SERIES=true \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    RHEOSTAT_DEVICE=cpu \
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
ARG REVISION=""
LABEL org.opencontainers.image.title="Rheostat" \
      org.opencontainers.image.description="A runtime-adaptive inference server with budget-aware model slicing." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
