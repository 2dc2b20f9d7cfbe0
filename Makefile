# Kennel. `make` lists the targets. The work is in scripts/; CONTRIBUTING.md says how they fit together.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8080
DATA ?=
# Compiled modules are kept, also where the environment says not to: else each process a test starts compiles torch's anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r t d; do printf '  %-12s %s\n' "$$t" "$$d"; done

.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: Python 3.11 or newer is needed as $(PYTHON): install the package python3, or name one with PYTHON=" >&2; exit 1; }

.PHONY: demo
demo: python ## train on photos, serve the model, classify a photo [DATA=folder] [PORT=8080]
	@$(PYTHON) -m scripts.demo $(if $(DATA),--data "$(DATA)") --port $(PORT)

.PHONY: stop
stop: python ## end the server that the demo left running
	@$(PYTHON) -m scripts.demo --stop

.PHONY: test
test: python ## every kind of test this machine can run; what it cannot is listed with the reason
	@$(PYTHON) -m scripts.run_tests

.PHONY: check
check: lint ## format, lint, types, import contracts, quick unit and contract tests
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pytest tests/unit tests/contract -m 'not slow and not docker' -q -n 2

.PHONY: lint
lint: setup ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: setup
setup: python ## a virtual environment with everything for development, from the locks
	@$(PYTHON) -m scripts.environment $(VENV) all
	@$(PYTHON) -m containers.core.build_native

.PHONY: base
base: ## a base image out of Debian packages, where none can be pulled (root, debootstrap)
	@scripts/make_base.sh

.PHONY: images
images: python ## the two images, kennel-train:dev and kennel-serve:dev [BASE_IMAGE=] [COMPAT_IMAGE=] [PRETRAINED=none] [COMPILE=1]
	@$(PYTHON) -m scripts.images

.PHONY: sbom
sbom: python ## what is in the two images: CycloneDX files in build/sbom and a table of licences
	@$(PYTHON) -m scripts.sbom

.PHONY: audit
audit: setup ## known vulnerabilities of everything the locks pin
	@$(BIN)/python -m scripts.audit

.PHONY: soak
soak: setup ## half an hour of serving under load and kills, then faults for an hour or more [MINUTES=30] [EVENTS=200] [SEED=7]
	@$(BIN)/python -m tests.load.soak --minutes $(or $(MINUTES),30) --mutants 20000 --result benchmarks/results
	@$(BIN)/python -m tests.faults.soak --events $(or $(EVENTS),200) --seed $(or $(SEED),7)

.PHONY: conformance
conformance: setup ## SageMaker's container rules as a table, for any image IMAGE= ARGS="--data … --model … --payload …"
	@CONFORMANCE_ARGS="$${ARGS:-}" $(BIN)/python -m tests.conformance $(IMAGE)

.PHONY: bench
bench: setup ## the serving benchmark against its peers; the dated result goes to benchmarks/results [ARGS=]
	@$(BIN)/python -m benchmarks.serving $(ARGS)

.PHONY: lock
lock: setup ## rewrite requirements/*.lock from pyproject.toml
	UV=$(BIN)/uv scripts/lock.sh
