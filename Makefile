# `make help` lists what there is. Everything runs in .venv, which the first target that needs it makes.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a blue square left of a yellow circle on a black background
OUT ?= out.png
BENCH ?= unet

BIN := $(VENV)/bin
CXX_FILES := $(wildcard runtime/cc/*.cc runtime/cc/*.h runtime/cc/session/*.cc runtime/cc/session/*.h)
CXX_SOURCES := CMakeLists.txt $(CXX_FILES)
C_FORMATTED := $(CXX_FILES) $(wildcard src/ddimcache/adreno/*.c tests/kit/*.cc tests/fakes/*.c \
	tests/fakes/*/*.cc tests/native/*.cc tests/native/*.h tests/runtime/native/*.cc examples/*.cc)
# What an installation depends on: the list of dependencies and the C++ sources. Python is used in place.
INSTALLED_FROM := pyproject.toml tools/environment.sh $(CXX_SOURCES)

.DEFAULT_GOAL := help
.PHONY: help demo test full sanitize fuzz lint bench lab aarch64 clean

help:
	@echo 'make demo    draw an image: installs what is missing, then `ddimcache generate "$$PROMPT"`'
	@echo 'make test    run every tier of tests that this machine has; says which it left out'
	@echo 'make full    run the tests on models of full size (long)'
	@echo 'make sanitize the plug-in under the address, undefined-behaviour and thread sanitizers'
	@echo 'make fuzz    10,000 damaged inputs for each reader of bytes from outside'
	@echo 'make lint    ruff, mypy, clang-format, and the C++ sources without warnings'
	@echo 'make bench   time the UNet once its answer is right: BENCH="unet --model sd15"'
	@echo 'make lab     build the Adreno lab (root, debootstrap; about 1.2 GB)'
	@echo 'make aarch64 cross-build for 64-bit ARM and draw there, emulated (root; about 1.2 GB)'
	@echo 'make clean   remove what was built, but neither the lab nor the root'
	@echo 'variables    PYTHON=$(PYTHON) VENV=$(VENV) PROMPT="$(PROMPT)" OUT=$(OUT)'

# Stamps. The environment for running is a part of the one for developing, so that `make demo` downloads less.
$(VENV)/ready-run: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) tools/environment.sh $(VENV) compile
	@touch $@

$(VENV)/ready-dev: $(INSTALLED_FROM)
	PYTHON=$(PYTHON) DDIMCACHE_WERROR=ON tools/environment.sh $(VENV) dev
	@touch $@ $(VENV)/ready-run

$(VENV)/ready-opencl: tools/ensure_opencl.sh | $(VENV)/ready-run
	tools/ensure_opencl.sh $(VENV)
	@touch $@

demo: $(VENV)/ready-run $(VENV)/ready-opencl
	$(BIN)/ddimcache generate "$(PROMPT)" -o "$(OUT)"
	@echo "image: $(abspath $(OUT))"

# One process more than cores: tests of servers and of faults wait for much of their time. In the order of names,
# because by number of tests the files with few and long ones come last, and all but one process wait for them.
test: $(VENV)/ready-dev
	-@tools/ensure_opencl.sh $(VENV)
	@tests/lab/build_lab.sh --if-possible
	-@tools/ensure_browser.sh
	$(BIN)/pytest --numprocesses $$(($$(nproc) + 1)) --maxprocesses 4 --max-worker-restart 0 --dist loadfile \
		--no-loadscope-reorder

full: $(VENV)/ready-dev
	-@tools/ensure_opencl.sh $(VENV)
	$(BIN)/pytest -m full --timeout 7200

sanitize: $(VENV)/ready-dev
	PYTHON=$(BIN)/python tests/native/run.sh sanitize
	PYTHON=$(BIN)/python tests/native/run.sh plugin

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_FORMATTED)

fuzz: $(VENV)/ready-dev
	PYTHON=$(BIN)/python tests/native/run.sh fuzz
	$(BIN)/pytest -m full --timeout 7200 tests/campaigns/test_rpc_fuzz.py

bench: $(VENV)/ready-dev $(VENV)/ready-opencl
	$(BIN)/ddimcache bench $(BENCH)

lab:
	tests/lab/build_lab.sh

aarch64: $(VENV)/ready-dev
	-@tools/ensure_opencl.sh $(VENV)
	tests/aarch64/build_root.sh $(VENV)
	$(BIN)/pytest -m aarch64 --timeout 3600

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
