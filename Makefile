# The two commands: `make demo` and `make test`. Each makes its own virtual environment in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# Tests mostly wait for servers: two processes, each with servers of its own. `make test PARALLEL=0` for one.
PARALLEL ?= 2

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: help demo test test-long bench bench-quick lint format run pins clean debian

$(VENV)/.installed: pyproject.toml requirements/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/.installed  ## the whole system on this machine; Ctrl-C ends it
	@$(BIN)/telemetry demo $(ARGS)

run: $(VENV)/.installed  ## the service with your configuration: make run ARGS="--config telemetry.toml"
	@$(BIN)/telemetry run $(ARGS)

debian:  ## what tests take from Debian, where root and apt are at hand; without, those tests skip
	@sh tests/debian-packages.sh

test: $(VENV)/.installed debian  ## all quick tests
	$(BIN)/python -m pytest -m "not long" -n $(PARALLEL) --dist loadfile $(ARGS)

test-long: $(VENV)/.installed debian  ## all tests
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed  ## every stage, several rounds
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/.installed debian  ## under two minutes, writes benchmarks/out/quick.json
	$(BIN)/python -m benchmarks --quick $(ARGS)

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pins:  ## remake requirements/*.txt (needs uv)
	uv pip compile --no-emit-index-url --no-header -q --extra sim --extra ble pyproject.toml -o requirements/run.txt
	uv pip compile --no-emit-index-url --no-header -q --extra sim --extra ble --group dev pyproject.toml requirements/build.in -o requirements/dev.txt

clean:  ## remove what was made here
	rm -rf $(VENV) var .pytest_cache .mypy_cache .ruff_cache benchmarks/out
