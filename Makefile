# make help lists the targets.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup-done

MODEL ?= stories-260k
OUT ?= build/$(MODEL)
PROMPT ?= Once upon a time
TOKENS ?= 200
BOARD ?= ulx3s-85f
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-smollm2 test-ice40 test-ecp5 formal lint verilog sim bitstream flash clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(SETUP) ## create .venv from requirements.lock (the other targets do it when it is needed)

$(SETUP): requirements.lock pyproject.toml
	@PYTHON=$(PYTHON) .ci/packages demo
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(DEMO)/report.json ## compile the bundled model, and let its RTL write a story that is checked token by token
	@$(BIN)/hardwire run $(DEMO) --prompt "$(PROMPT)" --tokens $(TOKENS) --check

$(DEMO)/report.json: $(wildcard models/stories-260k/* weights_to_rom/*.py weights_to_rom/*/*.py hdl/*.py hdl/*/*.py sim/*.py sim/rtl/*) \
                     hardwire/compiler.py hardwire/compiled.py | $(SETUP)
	$(BIN)/hardwire compile stories-260k --out $(DEMO) --row-lanes 2

test: $(SETUP) ## run the whole test suite and the linter
	@PYTHON=$(PYTHON) .ci/packages test
	$(BIN)/ruff check .
	$(BIN)/pytest -n 2 --dist loadgroup

test-smollm2: $(SETUP) ## compile SmolLM2-135M, and compare its RTL with the integer model (minutes)
	$(BIN)/pytest -m smollm2

test-ice40: $(SETUP) ## build iCE40 bitstreams, and compare contents, placed cells, and one unpacked again with the model (minutes)
	@PYTHON=$(PYTHON) .ci/packages ice40
	$(BIN)/pytest -m ice40

test-ecp5: $(SETUP) ## build an ECP5's bitstream, and compare every block RAM in it with the model's ROMs (minutes)
	$(BIN)/pytest -m ecp5

formal: $(SETUP) ## prove what must hold whatever the units are given (docs/formal.md)
	$(BIN)/python tests/formal/prove.py

lint: $(SETUP) ## run the linter alone
	$(BIN)/ruff check .

verilog: $(SETUP) ## MODEL=... OUT=...: compile a model as far as ROM images and Verilog
	$(BIN)/hardwire compile "$(MODEL)" --out "$(OUT)" --no-simulation

sim: $(SETUP) ## OUT=... PROMPT=...: let the simulated chip in OUT continue a prompt
	$(BIN)/hardwire run "$(OUT)" --prompt "$(PROMPT)" --tokens $(TOKENS)

bitstream: $(SETUP) ## BOARD=... MODEL=...: build a bitstream of a model for a board (minutes)
	$(BIN)/hardwire fpga build "$(MODEL)" --board "$(BOARD)"

flash: $(SETUP) ## BOARD=... MODEL=...: load that bitstream into the board that is plugged in
	$(BIN)/hardwire fpga flash "build/$(MODEL)-$(BOARD)" --board "$(BOARD)"

clean: ## remove what was built, but not .venv
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
