# Everything starts from a bare machine with python3 and make; environment/setup.sh does what is missing.
PYTHON ?= python3
VENV := .venv/bin
export PYTHON

.PHONY: setup setup-serve serve test lint bench chaos lock clean help

help:
	@echo "make serve   set up and serve profile demo in the foreground"
	@echo "make test    set up and run the tests"
	@echo "make lint    ruff and mypy --strict"
	@echo "make bench   run the benchmarks (some need Debian's wrk)"
	@echo "make chaos   break everything under load and check what became of the requests (about 20 minutes)"
	@echo "make setup   make the development environment only"
	@echo "make lock    renew environment/cpu.txt"

setup:
	@environment/setup.sh cpu,dev,load

setup-serve:
	@environment/setup.sh cpu

serve: setup-serve
	@exec $(VENV)/argus up --profile demo

test: setup lint
	$(VENV)/python -m pytest -n logical --maxprocesses 4 $(PYTEST_ARGS)

lint: setup
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

bench: setup
	$(VENV)/argus bench batching
	$(VENV)/argus bench overhead
	$(VENV)/argus bench serving

chaos: setup
	$(VENV)/argus bench chaos --check

lock: setup
	$(VENV)/python -m pip install --quiet uv
	$(VENV)/uv pip compile environment/cpu.in --python-version 3.11 --no-annotate --no-header \
	  $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) -o environment/cpu.txt

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
