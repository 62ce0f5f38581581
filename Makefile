# Two commands on a fresh machine that has python3 (3.11 or later) with venv, and make:
#   make demo    reconstructs real images and a real CT slice; pictures and a table land in out/
#   make test    installs the test tools as well, then runs ruff and every test
# Each sets up .venv the first time, and again when setup.cfg or the lock file has changed.

PYTHON ?= python3
PY     := .venv/bin/python
LOCK   := requirements-dev.lock
empty  :=
comma  := ,
# pip separates its wheel folders by spaces, uv by commas
export UV_FIND_LINKS ?= $(subst $(empty) $(empty),$(comma),$(strip $(PIP_FIND_LINKS)))

# uv takes seconds where pip takes minutes; where uv cannot be had, pip does the same
install = { $(PY) -m pip install --quiet --constraint $(LOCK) uv \
	&& $(PY) -m uv pip install --quiet --python $(PY) --constraint $(LOCK) --editable '$(1)'; } \
	|| $(PY) -m pip install --quiet --constraint $(LOCK) --editable '$(1)'

.PHONY: demo test lint format clean

demo: .venv/installed
	.venv/bin/invgen demo --out out

test: .venv/installed-test lint
	$(PY) -m pytest $(INVGEN_TEST_ARGS)

lint: .venv/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: .venv/installed-test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "invgen needs Python 3.11 or later, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml $(LOCK) | .venv/bin/python
	@echo "Installing invgen and its libraries into .venv (about 2 GB, once) ..."
	@$(call install,.)
	@touch $@

.venv/installed-test: .venv/installed
	@echo "Installing the test tools into .venv ..."
	@$(call install,.[test])
	@touch $@
