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

# what Python compiles is kept: torch and diffusers take seconds to compile, and each command would do so again
unexport PYTHONDONTWRITEBYTECODE

# Every file is held against its hash in the lock, but those of torch and of the platform's own wheels. uv takes seconds where pip
# takes minutes; where uv cannot be had, pip does the same in two steps, since its constraints take no hashes: first all that is
# locked, then torch, by its version. The lock's setuptools builds the editable package.
install = $(first) && { $(PY) -m uv pip install --quiet --python $(PY) --constraint $(LOCK) \
	--no-build-isolation-package invgen-solvers --editable '$(1)'; } || { $(rest) && $(PY) -m pip install --quiet \
	--constraint .venv/versions.txt --no-build-isolation --editable '$(1)'; }
hashed = $(PY) -m pip install --quiet --no-deps --require-hashes --requirement
first  = sed -n '/^uv==/,/[^\\]$$/p; /^setuptools==/,/[^\\]$$/p' $(LOCK) > .venv/first.txt && $(hashed) .venv/first.txt
rest   = sed '/^torch==/d; /^uv==/,/[^\\]$$/d' $(LOCK) > .venv/rest.txt && $(hashed) .venv/rest.txt \
	&& sed -n 's/^\([^ \#]*==[^ ]*\).*/\1/p' $(LOCK) > .venv/versions.txt

.PHONY: demo test tests docs lint ruff types format clean

demo: .venv/installed
	.venv/bin/invgen demo --out out

# the check of the types runs beside the tests: it has one thread, and several tests wait for processes that they start
test: .venv/installed-test ruff
	@$(MAKE) --no-print-directory --jobs=2 types tests

tests: .venv/installed-test
	$(PY) -m pytest -n auto --dist worksteal $(INVGEN_TEST_ARGS)

# The site, with the pictures of the gallery: its scripts run where they have changed. It opens from the file system.
docs: .venv/installed-test
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

lint: ruff types

ruff: .venv/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/installed-test
	$(PY) -m basedpyright --warnings

format: .venv/installed-test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf .venv build dist *.egg-info docs/_build docs/generated

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "invgen needs Python 3.11 or later, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml $(LOCK) | .venv/bin/python
	@for wing in operators priors benchmarks; do [ -e invgen/$$wing ] || ln -s ../$$wing invgen/$$wing; done  # an sdist has no links
	@echo "Installing invgen and its libraries into .venv (about 2 GB, once) ..."
	@$(call install,.)
	@touch $@

.venv/installed-test: .venv/installed
	@echo "Installing the test tools into .venv ..."
	@$(call install,.[test])
	@touch $@
