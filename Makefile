# The door to the project: `make up` and `make test` work in a fresh clone with Python >= 3.11 and pip.
PYTHON ?= python3
ARGS ?=
DJANGO ?= 6.1.3
BIN := .venv/bin
READY := .venv/.ready
CHROMIUM := /usr/bin/chromium

.DEFAULT_GOAL := help
.PHONY: install up engines test prove django flask-suites asgi-suites check bench screenshot format pins help
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## build .venv with every extra (PYTHON=python3.12 picks the interpreter)

# pip brings uv, pinned by hash like everything else, and uv the rest: 10 s instead of 50 s.
# Where uv cannot reach the registry (it reads no pip.conf), pip does the work itself.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "samesession needs Python 3.11 or newer; $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
	  echo "$(PYTHON) cannot make a venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@sed -n '/^uv==/,/# via/p' requirements.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt || \
	  $(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

up: $(READY) ## start three servers behind HAProxy: make up ARGS="--strategy redis://"
	@exec $(BIN)/samesession up $(ARGS)

engines: ## install the engines and tools of the tests that no wheel brings
	@bash tools/engines.sh

test: $(READY) engines ## run the tests against real engines: make test ARGS="-k redis"
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

prove: $(READY) engines ## run every trial that the promises name, into docs/proof.md; takes hours
	SAMESESSION_PROVE=1 SAMESESSION_HISTORIES=100000 SAMESESSION_TRIALS=100000 SAMESESSION_RECORDS=10000 \
	  $(BIN)/python -m pytest -n 2 --dist loadfile --proof docs/proof.md $(ARGS)

django: ## run our Django tests, Django's own and django-formtools': make django PYTHON=python3.13 DJANGO=6.1.3
	@bash tools/django.sh $(PYTHON) $(DJANGO)

flask-suites: ## run Flask-Login's, Flask-WTF's and Flask's own tests with our sessions
	@bash tools/flask_suites.sh $(PYTHON)

asgi-suites: ## run Starlette's own session tests with ours; QUART=… LITESTAR=… (checkouts) theirs
	@bash tools/asgi_suites.sh $(PYTHON)

check: $(READY) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src tests/typed
	$(BIN)/pyrefly check
	$(BIN)/lint-imports --no-logo

bench: $(READY) ## measure the added cost per request beside other session layers
	$(BIN)/python -m bench $(ARGS)

screenshot: $(READY) $(CHROMIUM) ## take the README's picture with a real browser
	$(BIN)/python tools/screenshot.py $(ARGS)

$(CHROMIUM):
	apt-get install --yes --no-install-recommends chromium fonts-inter || { \
	  echo "the screenshot needs Chromium at $@; on Debian as root: apt-get install chromium fonts-inter" >&2; exit 1; }

format: $(READY) ## format and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

pins: $(READY) ## compile requirements.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --all-extras --group dev --custom-compile-command "make pins" pyproject.toml --output-file requirements.txt
