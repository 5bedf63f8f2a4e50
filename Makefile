# make run    serve on loopback: SMTP 2525, submission 2587 and 2465 (TLS), POP3 2110 and 2995 (TLS), as
#             config/mailserver.toml says
# make test   the tests
# make lint   style, types, and which package may import which
# make bench  the benchmark
# make torture  the torture and fuzz tests, for much longer (TIMES=20)
# make clean  remove what the other targets made; never mail, users or certificates
#
# Needs python3 (3.11 or later, with venv) and make; everything else goes into .venv.

PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet install

.PHONY: run test lint bench torture clean

run: $(VENV)/.run
	@exec $(VENV)/bin/mailserver --config config serve

test: $(VENV)/.test
	$(PYTHON) -m pytest

lint: $(VENV)/.lint
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

bench: $(VENV)/.run
	$(PYTHON) tests/bench/run.py $(ARGS)

torture: $(VENV)/.test
	$(PYTHON) tests/torture/run.py $(or $(TIMES),20)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find mailserver tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed in place: a changed source counts at once, a changed pyproject.toml installs again.
$(PYTHON):
	@$(PYTHON3) -c 'import sys; sys.exit("Python 3.11 or later is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON3) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(PYTHON)
	$(PIP) --editable '.[console]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(PYTHON)
	$(PIP) --editable '.[console,test]'
	@touch $(VENV)/.run $@

$(VENV)/.lint: pyproject.toml | $(PYTHON)
	$(PIP) --editable '.[console,test,lint]'
	@touch $(VENV)/.run $(VENV)/.test $@
