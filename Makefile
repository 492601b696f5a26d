# make demo   the main job without hardware        make test   all tests
# make lint   ruff and mypy                        make clean  remove the virtual environment
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TEST_PACKAGES := libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins jackd2 procps

.PHONY: demo test lint clean system-venv system-test

demo: $(VENV)/.installed-train
	$(BIN)/rtconv demo

test: system-test $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy rtconv

$(VENV)/.installed-%: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

$(VENV)/bin/python: | system-venv
	$(PYTHON) -m venv $(VENV)

system-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rtconv needs Python 3.11 or newer: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }

# A sound server of their own is what the tests of the live engine listen to.
system-test:
	@dpkg -s $(TEST_PACKAGES) >/dev/null 2>&1 || \
		{ $(SUDO) apt-get update -qq && \
		  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $(TEST_PACKAGES); }

clean:
	rm -rf $(VENV) demo
