# eventpoll's commands. `make help` lists them.
PYTHON ?= python3
PORT ?= 8000
CHAOS ?= long
BIN := .venv/bin
TOOLS := .venv/tools/bin
INSTALL := install --quiet --disable-pip-version-check --require-hashes -r
LOCKED := requirements requirements-dev requirements-tools bench/requirements

.PHONY: run shell demo test lint fix lock audit bench chaos help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/run: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "eventpoll needs Python 3.11 or later")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip $(INSTALL) requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock .venv/run
	$(BIN)/pip $(INSTALL) requirements-dev.lock
	@touch $@

.venv/tools/made: requirements-tools.lock
	@test -x $(TOOLS)/python || $(PYTHON) -m venv .venv/tools
	$(TOOLS)/pip $(INSTALL) requirements-tools.lock
	@touch $@

run: .venv/run  ## serve on http://127.0.0.1:8000 (PORT changes it) with a demo TPP and SETs waiting
	@PORT=$(PORT) exec $(BIN)/gunicorn --config demo/gunicorn.conf.py wsgi:app

shell: .venv/run  ## a shell for the operator's commands beside make run: eventpoll push demo-tpp, eventpoll streams
	@$(BIN)/python demo/shell.py

demo: .venv/run  ## a SET's whole story, played in this terminal
	@$(BIN)/python demo/story.py

test: .venv/dev  ## the whole test suite
	@sh tests/install-programs.sh
	$(BIN)/pytest --cov --numprocesses 3 --dist loadfile

lint: .venv/dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: .venv/dev  ## ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: .venv/tools/made  ## renew the locks after a change of requirements*.txt; UPGRADE=1 raises what nothing pins, too
	for name in $(LOCKED); do \
		$(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras \
			--only-binary :all: --emit-build-options --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
			$(if $(UPGRADE),--upgrade) --output-file $$name.lock $$name.txt \
			$$([ $$name = requirements-dev ] && echo --constraint requirements.lock) || exit 1; \
	done

audit: .venv/tools/made  ## look the packages up among the known vulnerabilities; needs the internet, so lint leaves it out
	$(TOOLS)/pip-audit --strict --disable-pip --requirement requirements.lock

bench: .venv/dev  ## the benchmark: ratios, side by side, in one run; BENCH=short takes a look in two minutes
	@PYTHON=$(BIN)/python sh bench/install.sh
	$(BIN)/python -m bench.run

chaos: .venv/dev  ## kill everything, again and again, and check that nothing was lost; CHAOS=short takes two minutes
	$(BIN)/python -m chaos.run --form $(CHAOS) $(if $(SEED),--seed $(SEED))
