# The environment, the tests and the linter of escnet.
#
#   make demo      draw pictures, train a small ESC-Net, evaluate it and make a page, in output/demo
#   make test      run the tests on all cores;        PYTEST_ARGS='-k kmeans' selects, PYTEST_WORKERS=0 is one process
#   make test-gpu  run the tests that need a CUDA device; without one it says so
#   make test-web  run the tests of the page in a browser, Debian's chromium, which root gets by apt-get
#   make lint      check the code and its formatting
#   make format    format the code and repair what the linter can
#   make env       create or update the environment in .venv, which each of these does first
#
# PYTHON=python3.12 chooses the interpreter of a new environment, VENV=DIRECTORY puts it elsewhere.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
PYTEST_WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
DEMO_ARGS ?=
CHROMIUM ?= chromium

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMPS := $(VENV)/stamps

# Published as source only: built with the pinned setuptools, so that a later setuptools cannot break them.
SOURCE_ONLY := antlr4-python3-runtime fvcore iopath

CHECK_PYTHON := import sys; sys.exit(sys.version_info < (3, 10) and \
	"escnet needs Python 3.10 or later, not " + sys.version.split()[0] + ": choose another with make PYTHON=...")

# Succeeds when .venv has a detectron2 that is not the pinned one: the user's own build, which is kept.
FIND_DETECTRON2 := import importlib.util as u, sys; sys.exit(u.find_spec("detectron2") is None)
HAS_OWN_DETECTRON2 = { $(PIP) show --quiet detectron2 \
	|| { ! $(PIP) show --quiet sal-detectron2 && $(BIN)/python -c '$(FIND_DETECTRON2)'; }; } 2>/dev/null

# The wheel of detectron2 is for another Python, whose compiled operators are not used: only its Python code is taken.
PIP_DETECTRON2 = $(PIP) install --no-deps --require-hashes --only-binary=:all: --python-version 3.10

.PHONY: env demo test test-gpu test-web lint format
.DELETE_ON_ERROR:

env: $(STAMPS)/escnet

demo: env
	$(BIN)/python -m escnet.miniature $(DEMO_ARGS)

# A worker that is done takes tests from the others: a few take as long as hundreds of the rest.
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal --durations=10 $(PYTEST_ARGS)

# One process, so that no two of them share the memory of the device.
test-gpu: env
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	$(BIN)/python -m pytest -m gpu tests/gpu $(PYTEST_ARGS); \
	else echo "make test-gpu: PyTorch sees no CUDA device, so there is nothing to run."; fi

# One process, which serves the page and drives the browser.
test-web: env
	@command -v $(CHROMIUM) >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	|| { apt-get update && apt-get install --yes --no-install-recommends chromium; }
	@if command -v $(CHROMIUM) >/dev/null; then \
	CHROMIUM=$$(command -v $(CHROMIUM)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m web tests/web --durations=5 $(PYTEST_ARGS); \
	else echo "make test-web: there is no $(CHROMIUM), and only root can install it, by apt-get: install Debian's package" \
	"chromium, or name a browser by CHROMIUM=PATH. Nothing was run."; fi

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMPS)/packages: requirements.txt requirements-dev.txt requirements-gradio.txt constraints.txt
	@$(PIP) --version >/dev/null 2>&1 || { $(PYTHON) -c '$(CHECK_PYTHON)' && $(PYTHON) -m venv $(VENV); }
	@$(HAS_OWN_DETECTRON2) || $(PIP) uninstall --quiet --yes sal-detectron2 2>/dev/null
	$(PIP) install -c constraints.txt setuptools
	$(PIP) install -c constraints.txt --no-deps --no-build-isolation --use-pep517 $(SOURCE_ONLY)
	$(PIP) install -r requirements.txt -r requirements-dev.txt
	$(PIP) install --no-deps -r requirements-gradio.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/detectron2: requirements-detectron2.txt $(STAMPS)/packages
	@if $(HAS_OWN_DETECTRON2); then echo "Keeping the detectron2 that is installed already."; else \
	set -e; site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	$(PIP) uninstall --quiet --yes sal-detectron2 2>/dev/null; \
	rm -rf "$$site/detectron2" $(VENV)/detectron2.part; \
	$(PIP_DETECTRON2) --target $(VENV)/detectron2.part -r requirements-detectron2.txt; \
	rm -f $(VENV)/detectron2.part/detectron2/_C.*; \
	mv $(VENV)/detectron2.part/sal_detectron2-*.dist-info $(VENV)/detectron2.part/detectron2 "$$site"; \
	rm -rf $(VENV)/detectron2.part; fi
	@touch $@

$(STAMPS)/escnet: pyproject.toml $(STAMPS)/detectron2
	$(PIP) install --no-deps --no-build-isolation -e .
	$(BIN)/python -W ignore -c 'import detectron2.engine, open_clip, segment_anything, escnet'
	@touch $@
