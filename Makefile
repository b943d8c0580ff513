# Requires make and Python 3.11 or later.
#
#   make demo      run an example from submission to result, on an embedded server
#   make test      what every change must pass: format, lint, types, docs, tests
#   make check     the same
#   make pytest    the tests alone
#   make format    correct format and lint
#   make docs      build the documents into site/; every warning is an error
#   make docs-reference   write the generated parts of the reference pages again
#   make release   build the distributions into dist/ and check them
#   make bench     benchmarks, compared with other software, which is installed first
#   make clean     end the demo's processes and remove all generated files

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
EXAMPLE ?= examples/prime_sweep_scale
DEMO_HOME := $(CURDIR)/.demo
MN := MIRROR_NEURON_HOME="$(DEMO_HOME)" $(VENV)/bin/mirrorneuron

.PHONY: demo test check pytest release docs docs-reference format bench clean
.DEFAULT_GOAL := demo

demo: $(READY)
	@echo "==> mirrorneuron run $(EXAMPLE)"
	@$(MN) run $(EXAMPLE)
	@echo
	@echo "==> The server and the node run until they have been idle for 10 minutes. The job is kept. To inspect it:"
	@echo "      export MIRROR_NEURON_HOME=\"$(DEMO_HOME)\""
	@echo "      $(VENV)/bin/mn job list"
	@echo "      $(VENV)/bin/mn monitor"
	@echo "      $(VENV)/bin/mn dashboard"
	@echo "      $(VENV)/bin/mn down          ends both now"

# The checks that are fast come first.
test: $(READY)
	@echo "==> format"
	@$(PY) -m ruff format --check -q .
	@echo "==> lint"
	@$(PY) -m ruff check -q .
	@echo "==> types"
	@$(PY) -m mypy
	@echo "==> docs"
	@$(MAKE) -s docs
	@echo "==> tests"
	@$(PY) -m pytest

check: test

pytest: $(READY)
	@$(PY) -m pytest

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict -q

docs-reference: $(READY)
	@$(PY) -m docs.generate

format: $(READY)
	@$(PY) -m ruff check -q --fix-only .
	@$(PY) -m ruff format .

release: $(READY)
	@rm -rf dist
	@$(PY) -m build --no-isolation >/dev/null
	@$(PY) -m twine check --strict dist/*

bench: $(READY)
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev,bench]'
	@$(PY) -m benchmarks

clean:
	-@if [ -d "$(DEMO_HOME)" ] && [ -x $(VENV)/bin/mirrorneuron ]; then $(MN) down; fi
	rm -rf $(VENV) "$(DEMO_HOME)" build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Python is searched for only here: with an existing environment, no other Python is needed.
$(READY): pyproject.toml
	@python=$(PY); \
	if ! $$python -m pip --version >/dev/null 2>&1; then \
		python=; \
		for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
			if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "MirrorNeuron needs Python 3.11 or later; 'python3' here is: $$(python3 --version 2>&1 || true)" >&2; \
			echo "Install it, or give its path: make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "==> creating $(VENV) with $$($$python --version)"; \
		if ! $$python -m venv $(VENV); then \
			rm -rf $(VENV); \
			echo "Could not create $(VENV); on Debian and Ubuntu, install the package python3-venv." >&2; \
			exit 1; \
		fi; \
	fi
	@echo "==> installing MirrorNeuron and its development tools (about a minute the first time)"
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@
