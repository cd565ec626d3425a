# Two commands: `make demo` shows what sc2onnx does, `make test` runs everything. Both make their
# own virtual environments.

PYTHON ?= python3
VENV ?= .venv
LEAN ?= .venv-lean
FIXTURE ?= build/fixture
CLIENTS_VENV ?= .venv-clients
RAY_VENV ?= .venv-ray
DOCS_VENV ?= .venv-docs
CLIENTS ?= build/clients
JOBS ?= auto
# Any torch from 2.6 does. The exact version comes first because a CPU-only build of it may be at
# hand (pip's find-links); elsewhere set TORCH to what your platform offers, for instance
# TORCH="torch --index-url ..." for a CPU-only build.
TORCH ?= torch==2.13.0

# Tests run on all processors at once: the products of each, which are small, take one. Threads that
# wait for each other take twice the time.
ALONE := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

BIN := $(VENV)/bin
# Without compiling: of what is installed, most is never imported.
PIP := -m pip install --quiet --disable-pip-version-check --no-compile

# `make bench`: the shape, where its files go, which peers, whose Python has them
# (benchmarks/quality.py says how to install them), more bundles.
SHAPE ?= 3b
BENCH ?= build/bench-$(SHAPE)
PEERS ?= llama.cpp openvino torch
PEERS_PYTHON ?= $(BIN)/python
BUNDLES ?=
BENCHFLAGS ?= --save $(BENCH)/speed.json --plot $(BENCH)/speed.png

.PHONY: demo test lint types native unit lean clients clients-table ray ray-clients bench interop \
  picture docs page format clean

demo: $(VENV)/.ready $(VENV)/.kernels
	PATH="$(abspath $(BIN)):$$PATH" bash scripts/demo

test: lint types native unit lean clients docs

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) $(TORCH) || $(BIN)/python $(PIP) torch
	$(BIN)/python $(PIP) -e ".[cpu,export,verify,evaluate]"
	@touch $@

$(VENV)/.dev: $(VENV)/.ready
	$(BIN)/python $(PIP) -e ".[cpu,export,verify,evaluate,serve,lsp,dev]"
	@touch $@

# The kernels, where a C++ compiler can build them; without one everything works, and is slower.
$(VENV)/.kernels: $(shell find native -type f) | $(VENV)/.ready
	@if command -v $(CXX) >/dev/null; then $(BIN)/python $(PIP) ./native; \
	  else echo "no C++ compiler ($(CXX)): going on without the kernels"; fi
	@touch $@

# The kernels' own tests, with sanitizers, and where a cross compiler and an emulator
# are there on ARM as well.
native:
	CXX="$(CXX)" bash scripts/native-tests build/native

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev $(VENV)/.kernels $(FIXTURE)/reference.npz
	$(ALONE) SC2ONNX_FIXTURE=$(FIXTURE) TORCH="$(TORCH)" $(BIN)/pytest -n $(JOBS)

# What the runtime's tests need where nothing can export: a bundle, and torch's answers.
$(FIXTURE)/reference.npz: scripts/make_fixture.py examples/starcoder2-mini/model.safetensors \
  $(shell find sc2onnx/export sc2onnx/bundle -name '*.py') | $(VENV)/.dev
	rm -rf $(FIXTURE)
	$(BIN)/python scripts/make_fixture.py $(FIXTURE)

# The installed wheel, in an environment without torch, transformers, onnx,
# safetensors and the kernels.
lean: $(FIXTURE)/reference.npz
	rm -rf $(LEAN)
	$(PYTHON) -m venv $(LEAN)
	$(LEAN)/bin/python $(PIP) ".[cpu,serve,lsp,test]" "pytest-xdist>=3.6"
	@for package in torch transformers onnx onnx_ir safetensors sc2onnx_kernels; do \
	  if $(LEAN)/bin/python -c "import $$package" 2>/dev/null; then \
	    echo "$$package is installed in $(LEAN)"; exit 1; fi; done
# Away from the source tree, which would be imported instead.
	rm -rf build/lean && mkdir -p build/lean && cp -r tests build/lean/
	cd build/lean && $(ALONE) SC2ONNX_FIXTURE=$(abspath $(FIXTURE)) $(abspath $(LEAN))/bin/python \
	  -m pytest -n $(JOBS) -p no:cacheprovider tests/runtime tests/evaluate tests/batch tests/bench \
	  tests/serve tests/fleet tests/lsp tests/cli/test_cli.py

# Clients as their users install them, driven against a server; without npm, those for Python only.
CLIENTS_ENV = SC2ONNX_FIXTURE=$(FIXTURE) SC2ONNX_CLIENTS=$(CLIENTS)

clients: $(CLIENTS_VENV)/.ready $(CLIENTS)/node/.ready $(FIXTURE)/reference.npz
	$(CLIENTS_ENV) $(CLIENTS_VENV)/bin/pytest tests/clients

clients-table: $(CLIENTS_VENV)/.ready $(CLIENTS)/node/.ready $(FIXTURE)/reference.npz
	$(CLIENTS_ENV) $(CLIENTS_VENV)/bin/python -m tests.clients.table docs/serving.md

$(CLIENTS_VENV)/.ready: pyproject.toml tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/python $(PIP) -e ".[cpu,serve,chat]" -r tests/clients/requirements.txt
	@touch $@

$(CLIENTS)/node/.ready: tests/clients/node/package-lock.json
	@mkdir -p $(@D) && cp tests/clients/node/package*.json $(@D)
	@if ! command -v npm >/dev/null; then echo "no npm: going on without the clients for Node.js"; \
	  else cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --silent && touch .ready; fi

# The Ray application and its jobs, on a cluster of this machine; without Ray,
# which is large, nothing of it.
ray: $(RAY_VENV)/.tried $(FIXTURE)/reference.npz
	@if [ -e $(RAY_VENV)/.ready ]; then SC2ONNX_FIXTURE=$(FIXTURE) $(RAY_VENV)/bin/python \
	  -m pytest tests/plugins/ray -p no:cacheprovider; \
	  else echo "pip cannot install Ray here: going on without plugins/ray"; fi

# The clients of tests/clients, driven against the Ray application instead of the server.
ray-clients: $(RAY_VENV)/.tried $(CLIENTS_VENV)/.ready $(CLIENTS)/node/.ready \
  $(FIXTURE)/reference.npz
	$(RAY_VENV)/bin/python -m tests.plugins.ray.clients $(FIXTURE) env $(CLIENTS_ENV) \
	  $(CLIENTS_VENV)/bin/pytest tests/clients/test_clients.py

$(RAY_VENV)/.tried: pyproject.toml plugins/ray/pyproject.toml
	$(PYTHON) -m venv $(RAY_VENV)
	@rm -f $(RAY_VENV)/.ready
	@if $(RAY_VENV)/bin/python $(PIP) -e ".[cpu,serve,test]" -e "./plugins/ray[data]"; then \
	  touch $(RAY_VENV)/.ready; fi
	@touch $@

# Our speed beside the peers that are installed. The weights are random: what a token
# costs does not depend on them.
bench: $(VENV)/.kernels $(BENCH)/int4/sc2onnx.json $(BENCH)/int8/sc2onnx.json
	$(PEERS_PYTHON) benchmarks/speed.py $(BENCH)/checkpoint --bundles $(BENCH)/int4 \
	  $(BENCH)/int8 $(BUNDLES) \
	  --peers $(PEERS) --scratch $(BENCH)/peers $(BENCHFLAGS)

$(BENCH)/%/sc2onnx.json: $(BENCH)/checkpoint/tokenizer.json
	$(BIN)/sc2onnx export $(BENCH)/checkpoint $(@D) --precision $* --no-calibration --overwrite

$(BENCH)/checkpoint/tokenizer.json: | $(VENV)/.ready # what is written last
	rm -rf $(@D)
	$(BIN)/python benchmarks/make_checkpoint.py $(SHAPE) $(@D)

# The table of other runtimes in docs/runtimes.md: installs them under build/interop, runs the
# examples, compares tokens and times.
interop: $(VENV)/.dev $(VENV)/.kernels
	TORCH="$(TORCH)" $(BIN)/python benchmarks/interop.py

# The pictures of the README and of docs/choose-a-precision.md, from the figures of the documents.
picture: $(VENV)/.ready
	$(BIN)/python benchmarks/picture.py docs/at-a-glance.png
	$(BIN)/python benchmarks/precision_picture.py docs/precisions.png

# The documents as a site in build/site, with links and anchors checked, and their prose. Pages of
# figures have captions rather than sentences.
PROSE := README.md $(filter-out docs/measurements.md docs/sizing.md,$(wildcard docs/*.md))

docs: $(DOCS_VENV)/.ready
	$(DOCS_VENV)/bin/codespell README.md CHANGELOG.md docs
	$(DOCS_VENV)/bin/python scripts/prose.py $(PROSE)
	$(DOCS_VENV)/bin/proselint check --config scripts/proselint.json $(PROSE)
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@if grep -rEo --include='*.html' \
	  '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//[^">]+' build/site; then \
	  echo "the site would load these from elsewhere: keep them in docs/"; exit 1; fi

$(DOCS_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python $(PIP) -e ".[docs]"
	@touch $@

# The page that the server shows, from its sources; what it writes is committed, so that
# installing needs no Node.js.
page:
	cd page && npm ci --no-audit --no-fund && npm run check && npm run build

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(LEAN) $(CLIENTS_VENV) $(RAY_VENV) $(DOCS_VENV) build dist bundles
