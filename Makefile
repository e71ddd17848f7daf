# `make` lists the targets. They need only python3 (3.11 or newer) and make: each installs into .venv
# what it needs and is not there yet.
#
# On Linux the default package index carries torch with CUDA, several gigabytes more. For a CPU
# build name another index: make install PIP_ARGS="--extra-index-url <torch's CPU index>"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
PIP_ARGS =
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt

# Plain "=": a shell's own HOST or PORT must not decide where the server listens.
HOST = 127.0.0.1
PORT = 8000
URL = http://127.0.0.1:8000
ARGS =
HOSTILE =
TARGET = cpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install serve train convert test gate coverage systemtest clients check format lint types imports fuzz bench image clean

help:  ## List the targets
	@sed -nE 's/^([a-z]+):.*  ## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# Layers of .venv, each with the extras that it adds to those of serving.
LAYERS := $(addprefix $(VENV)/.,serve train bench fuzz installed)
$(VENV)/.serve: EXTRAS = cpu
$(VENV)/.train: EXTRAS = cpu,train
$(VENV)/.bench: EXTRAS = cpu,bench
$(VENV)/.fuzz: EXTRAS = cpu,fuzz
$(VENV)/.installed: EXTRAS = cpu,dev

# Distributions of this repository that are served and tested from where they lie.
PROJECTS = -e '.[$(EXTRAS)]' -e ./client

# Torch goes first and alone: its exact version decides which build everything else meets.
$(LAYERS): pyproject.toml client/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(PIP_ARGS) "$$(grep '^torch==' constraints.txt)"
	$(PIP) $(PIP_ARGS) $(PROJECTS)
	@touch $(if $(filter %.installed,$@),$(LAYERS),$@)

install: $(VENV)/.installed  ## Install everything: to serve, train, measure and test

serve: $(VENV)/.serve  ## Start the server (HOST=127.0.0.1 PORT=8000 ARGS=...)
	$(BIN)/rheostat serve --host $(HOST) --port $(PORT) $(ARGS)

train: $(VENV)/.train  ## Train a model (ARGS="slimmable --out FOLDER", ARGS=--help for all)
	$(BIN)/rheostat train $(ARGS)

convert: $(VENV)/.train  ## Make a public text encoder servable (ARGS="SOURCE --out FOLDER --pairs FILE")
	$(BIN)/rheostat convert $(ARGS)

# Tests marked gpu run only where torch sees a CUDA device. Files of tests run beside each other, in
# a process for each core but eight at most; those of benches come after, for they measure time.
# Threads that wait for each other do not spin then: that made tests take three times as long.
# With ARGS, what they name runs in one process.
BESIDE := -n logical --maxprocesses 8 --dist worksteal --ignore tests/bench
test: check  ## Run every check and every test but those of systemtest
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then set -- 'not system'; else set -- 'not gpu and not system'; fi; \
	$(if $(ARGS),,OMP_WAIT_POLICY=PASSIVE) $(BIN)/pytest -m "$$1" $(if $(ARGS),$(ARGS),$(BESIDE) && $(BIN)/pytest -m "$$1" tests/bench)

# Rules of coverage stand in pyproject.toml. `gate` runs the tests of what must be reached wholly.
gate: install  ## Judge that tests reach all of the core, the search and the policies (a minute)
	$(BIN)/coverage run -m pytest -q -m 'not gpu and not slow and not system' \
		tests/models/test_core.py tests/models/run tests/search tests/server/engine $(ARGS)
	$(BIN)/python -m tests.coverage_gate --whole

# Apart from `test`, whose time it would make three quarters longer: every line of Python is noted,
# also of torch, which is why what exports graphs is left out.
coverage: install  ## Judge how much of all code the tests reach (ten minutes)
	$(BIN)/coverage run -m pytest -m 'not gpu and not slow and not system' \
		--ignore tests/models/backends/onnx tests/models tests/search tests/server $(ARGS)
	$(BIN)/python -m tests.coverage_gate

systemtest: install  ## Test replicas, a Ray cluster, Prometheus and the image (half an hour)
	$(BIN)/pytest -m system $(ARGS)

# The clients need no torch; they talk to the server of $(VENV).
clients: install $(CLIENTS)/.installed  ## Test stock clients of other servers in an environment of their own
	RHEOSTAT=$(BIN)/rheostat $(CLIENTS)/bin/python -m pytest -c tests/ecosystem/pytest.ini \
		--rootdir . --confcutdir tests/ecosystem tests/ecosystem $(ARGS)

$(CLIENTS)/.installed: tests/ecosystem/requirements.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --no-deps -r $<
	@touch $@

check: lint types imports  ## Run lint, types and imports

format: install  ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: install  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Check types (mypy, strict)
	$(BIN)/mypy

imports: install  ## Check that imports go server -> search -> models only
	$(BIN)/lint-imports

# Paths that would change the server for the requests after them are left out.
fuzz: $(VENV)/.fuzz  ## Send made-up and hostile requests to a running server (URL=... ARGS="-n 500" HOSTILE=...)
	$(BIN)/schemathesis run $(URL)/openapi.json --continue-on-failure \
		--checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
		--phases examples,coverage,fuzzing --exclude-path-regex '^/v1/(clients|keys)|load$$' $(ARGS)
	$(BIN)/python -m bench.hostile --url $(URL) $(HOSTILE)

bench: $(VENV)/.bench  ## Run the benchmarks (ARGS=--quick writes docs/results/)
	$(BIN)/python -m bench $(ARGS)

image:  ## Build a container image (TARGET=cpu or gpu)
	PIP_ARGS="$(PIP_ARGS)" deploy/build.sh $(TARGET)

clean:  ## Remove caches and build output, keep .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
