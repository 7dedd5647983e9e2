# Every target sets up what it needs: an environment in .venv, nothing outside this folder.
# Another interpreter: make PYTHON=python3.13 test. Options for the demo: make demo ARGS="--json FILE".

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_COMMAND := python -m pip --disable-pip-version-check --quiet --quiet
PIP := $(BIN)/$(PIP_COMMAND)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-compiled compiled wheel test-deep image soak test-aioquic-h3 clients pages conformance coverage check docs commands reasons metrics fuzz bench clean

help:
	@echo "make demo   hand a live download from process to process (ARGS=\"--json FILE\")"
	@echo "make test   run the tests"
	@echo "make test-compiled   run the tests on the compiled form, in an environment of its own"
	@echo "make test-deep   run those tests for longer that can look for ever, and services as executed"
	@echo "make image   build the container image of examples/deploy, and run it"
	@echo "make soak   a year of reloads, deaths, upgrades and renewals under clients, in twenty minutes"
	@echo "make test-aioquic-h3   run aioquic's own HTTP/3 tests against ours (fetches its sdist)"
	@echo "make clients   browsers and other real clients through handoffs, into docs/clients.md"
	@echo "make pages   the pages of examples/ in browsers, through reloads"
	@echo "make conformance   checkers that others wrote, into docs/conformance.md"
	@echo "make coverage   which lines the tests without processes reach"
	@echo "make check  lint, formatting, types, layers"
	@echo "make docs   build the documentation's site into build/docs"
	@echo "make commands  write docs/commands.md from the code"
	@echo "make reasons  write docs/reasons.md from the code"
	@echo "make metrics  write the table in docs/metrics.md from the code"
	@echo "make fuzz   fuzz every target for a minute (ARGS=\"--seconds N TARGET\")"
	@echo "make wheel  build a compiled wheel for this Python into dist"
	@echo "make bench  run every benchmark into bench/results (ARGS=\"--quick\")"
	@echo "make venv   only make the environment (.venv)"
	@echo "make clean  remove the environment and what the tools left behind"

venv: $(STAMP)

# The stamp comes last, so an installation that was broken off is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "quicbaton needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "This Python has no ensurepip (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making the environment in $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e '.[dev,demo,bench]'
	@touch $(STAMP)

# A wheel with compiled modules (hatch_build.py), for the environment's Python. It is built by what
# the environment has: the versions in constraints.txt, and the mypy of `make check`.
BUILD_WHEEL := QUICBATON_COMPILE=1 $(PIP) wheel --no-build-isolation --no-deps .
wheel: $(STAMP)
	@$(BUILD_WHEEL) --wheel-dir dist
	@ls dist

# An environment with that wheel, made anew when a source has changed.
COMPILED := .compiled
COMPILED_STAMP := $(COMPILED)/.installed
compiled: $(COMPILED_STAMP)

$(COMPILED_STAMP): $(STAMP) hatch_build.py $(shell find src -name '*.py')
	@echo "Compiling into $(COMPILED) (some minutes, the first time)"
	@rm -rf $(COMPILED)/wheel
	@$(BUILD_WHEEL) --wheel-dir $(COMPILED)/wheel
	@test -e $(COMPILED)/bin/python || $(BIN)/python -m venv $(COMPILED)
	@wheel=$$(echo $(COMPILED)/wheel/*.whl) && \
		$(COMPILED)/bin/$(PIP_COMMAND) install -c constraints.txt "$$wheel[dev,demo,bench]" && \
		$(COMPILED)/bin/$(PIP_COMMAND) install --no-deps --force-reinstall "$$wheel"
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m demo $(ARGS)

# Tests of whole processes wait more than they compute: several files run at a time, in the order in
# which they are collected (tests/conftest.py).
PYTEST_OPTIONS := pytest -n 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/python -m $(PYTEST_OPTIONS)
test: $(STAMP)
	$(PYTEST) $(ARGS)

# The same tests on compiled modules.
test-compiled: $(COMPILED_STAMP)
	@$(COMPILED)/bin/python -m quicbaton --version | grep -F '(compiled)'
	$(COMPILED)/bin/python -m $(PYTEST_OPTIONS) $(ARGS)

# Tests that could look for ever look longer (tests/depth.py), and every program is executed
# instead of forked (tests/forker). A systemd of the test's own is booted.
DEEP := tests/deploy/test_systemd.py tests/supervisor tests/cli tests/processes/test_neighbours.py tests/processes/test_takeovers.py tests/transport/test_bbr.py
test-deep: $(STAMP)
	QUICBATON_TEST_DEEP=1 QUICBATON_TEST_EXEC=1 $(PYTEST) $(DEEP) $(ARGS)

# The container image, built and run as Kubernetes does. Fetches the tools by apt, as root, and a
# Debian into .image.
image: $(STAMP)
	@command -v buildah crun debootstrap >/dev/null || { apt-get -qq update \
		&& apt-get -qq install --yes --no-install-recommends buildah crun debootstrap; }
	$(BIN)/python -m pytest -n 0 tests/deploy/built_image.py $(ARGS)

# A year of operation in fast motion; two minutes of it are among the tests. make soak ARGS=--quick
soak: $(STAMP)
	$(BIN)/python -m tests.soak $(ARGS)

# What fails and may is listed in tests/http3/aioquic_differences.py.
test-aioquic-h3: $(STAMP)
	@$(BIN)/python -m tests.http3.aioquic_suite

# Fetches the clients into .clients (gtlsclient and browsers by apt). make clients ARGS="bun qh3"
clients: $(STAMP)
	@$(BIN)/python -m tests.clients.matrix.install
	@$(BIN)/python -m tests.clients.matrix $(if $(ARGS),$(ARGS),--write docs/clients.md)

# The pages of examples/ in browsers, which make clients fetches, too.
pages: $(STAMP)
	@$(BIN)/python -m tests.clients.matrix.install
	$(BIN)/python -m pytest -n 0 tests/clients/example_pages.py $(ARGS)

# Fetches the checkers into .conformance. make conformance ARGS="autobahn migration" for a part
conformance: $(STAMP)
	@$(BIN)/python -m tests.conformance $(if $(ARGS),$(ARGS),--write docs/conformance.md)

coverage: $(STAMP)
	$(BIN)/python -m coverage run -m pytest -m "not process" $(ARGS)
	$(BIN)/python -m coverage report --skip-covered --skip-empty

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Sphinx is not needed for anything else, so it is installed when it is asked for.
docs: $(STAMP)
	@$(BIN)/python -c 'import furo, myst_parser, sphinx' 2>/dev/null \
		|| $(PIP) install -c constraints.txt -e '.[docs]'
	$(BIN)/python -m docs.builder

commands: $(STAMP)
	@$(BIN)/python -m tests.commands_page

reasons: $(STAMP)
	@$(BIN)/python -m tests.reasons_page

metrics: $(STAMP)
	@$(BIN)/python -m tests.metrics_page

# By coverage where atheris can be installed, else with hypothesis.
fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) install 'atheris>=2.3' 2>/dev/null || true
	@$(BIN)/python -m tests.fuzz.run $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m bench all $(ARGS)

clean:
	rm -rf $(VENV) build dist .aioquic .clients .compiled .conformance .image .coverage .fuzz .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
