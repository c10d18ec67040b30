# eventpoll's commands. `make help` lists them.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin

.PHONY: run test lint fix help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/run: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "eventpoll needs Python 3.11 or later")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/run
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: .venv/run  ## serve on http://127.0.0.1:8000 (PORT changes it) with a demo TPP and SETs waiting
	@PORT=$(PORT) exec $(BIN)/gunicorn --config demo/gunicorn.conf.py wsgi:app

test: .venv/dev  ## the whole test suite
	@sh tests/install-redis-cli.sh
	$(BIN)/pytest --cov

lint: .venv/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/dev  ## ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
