# Needs make and Python 3.10 or newer, nothing else. Each target sets up what it needs, once, in .venv.

PYTHON ?= python3
ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo django flask jaeger picture prometheus dashboard series test test-foreign bench docs plan lint clean

help:
	@echo "make demo    watch a connection pool go wrong, and read what is told about it  (ARGS=--telemetry: metrics, spans)"
	@echo "make django  a small Django application that shows the drops of its upstream; make flask: the same with Flask"
	@echo "make jaeger  a story to read in Jaeger   (start one before: docker compose up -d, in examples/jaeger)"
	@echo "make picture that story as the README shows it, drawn anew from a real Jaeger"
	@echo "make prometheus  a fleet to look at in Grafana  (start it before: docker compose up -d, in examples/prometheus)"
	@echo "make dashboard   its dashboard anew;  make series: how many series a fleet makes  (ARGS=--help for more)"
	@echo "make test    run the tests            (some of them: make test ARGS='tests/unit -x')"
	@echo "make test-foreign  the suites of urllib3 and requests, without us and with us; other instrumentations beside us"
	@echo "make bench   what it costs, beside its peers; instructions too where valgrind is (ARGS=--help for more)"
	@echo "             ARGS=scale: with many threads, drops and sockets"
	@echo "make docs    the pages, to build/docs/index.html;  make plan: their picture of the modules anew"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make clean   remove .venv, caches and build output"
	@echo
	@echo "Another Python: make test PYTHON=python3.12   (after 'make clean' if .venv is there already)"

demo: $(VENV)/.demo
	@$(VENV)/bin/pool-telemetry demo $(ARGS)

django: $(VENV)/.web
	@PYTHONPATH=examples $(VENV)/bin/python -m web $(VENV)/bin/python examples/django/manage.py runserver $(ARGS)

flask: $(VENV)/.web
	@PYTHONPATH=examples $(VENV)/bin/python -m web $(VENV)/bin/flask --app examples/flask/shop.py run $(ARGS)

jaeger: $(VENV)/.jaeger
	@PYTHONPATH=examples $(VENV)/bin/python -m jaeger.app

picture: $(VENV)/.jaeger
	@PYTHONPATH=examples $(VENV)/bin/python -m jaeger.picture

prometheus: $(VENV)/.prometheus
	@PYTHONPATH=examples $(VENV)/bin/python -m prometheus.app

dashboard:
	@PYTHONPATH=examples $(PYTHON) -m prometheus.dashboard > examples/prometheus/dashboard.json

series: $(VENV)/.prometheus
	@PYTHONPATH=examples $(VENV)/bin/python -m prometheus.series $(ARGS)

test: $(VENV)/.test
	@$(VENV)/bin/python -m pytest $(ARGS)

test-foreign: $(VENV)/.companions
	@$(VENV)/bin/python -m pytest tests/companions
	@$(VENV)/bin/python -m tests.foreign $(ARGS)

bench: $(VENV)/.bench
	@$(VENV)/bin/python -m benchmarks $(ARGS)

docs: $(VENV)/.docs
	@$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo "build/docs/index.html"

plan: $(VENV)/.docs
	@$(VENV)/bin/python docs/architecture.py > docs/pictures/architecture.svg

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

clean:
	@rm -rf $(VENV) .ci-cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The dependency groups of pyproject.toml; asked for one by one, so that the demo need not wait for the test servers.
$(VENV)/.demo $(VENV)/.web $(VENV)/.jaeger $(VENV)/.prometheus $(VENV)/.test $(VENV)/.companions $(VENV)/.bench $(VENV)/.docs $(VENV)/.dev: $(VENV)/.%: pyproject.toml $(VENV)/.made
	@echo "Installing what 'make $(MAKECMDGOALS)' needs into $(VENV) ..."
	@$(PIP) install --editable . --group $*
	@touch $@

# pip learned --group in 25.1; the one that comes with Python may be older.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Python 3.10 or newer is needed, and there is no '$(PYTHON)' here." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or newer is needed, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@
