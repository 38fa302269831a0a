# make help lists the targets.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

# One stamp for each file of requirements/: a target waits for the packages that it needs, and for no others.
CORE := $(VENV)/.core-done
FPGA := $(VENV)/.fpga-done
TEST := $(VENV)/.test-done
DOCS := $(VENV)/.docs-done
LINT := $(VENV)/.lint-done
LITEX := $(VENV)/.litex-done
BENCH := $(VENV)/.bench-done

MODEL ?= stories-260k
OUT ?= build/$(MODEL)
PROMPT ?= Once upon a time
TOKENS ?= 200
BOARD ?= ulx3s-85f
DEMO := build/demo
SEED ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test fingerprint test-smollm2 test-ice40 test-ecp5 test-wheel tokens-truth formal lint format \
        docs printed lock verilog sim bitstream flash clean fuzz test-kit test-litex bench

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(FPGA) ## create .venv with all that the hardwire command needs (the other targets install what they need)

$(CORE): requirements/core.txt pyproject.toml
	@PYTHON=$(PYTHON) .ci/packages demo
	$(PYTHON) -m venv $(VENV)
	$(PIP) --requirement requirements/core.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.%-done: requirements/%.txt $(CORE)
	$(PIP) --requirement $<
	@touch $@

$(TEST): requirements/fpga.txt

$(LITEX): requirements/fpga.txt requirements/test.txt

demo: $(DEMO)/report.json ## compile the bundled model, and let its RTL write a story that is checked token by token
	@$(BIN)/hardwire run $(DEMO) --prompt "$(PROMPT)" --tokens $(TOKENS) --check

# The sources of a compiled model; a rebuilt demo follows a change of any of them.
SOURCES := $(wildcard models/stories-260k/* weights_to_rom/*.py weights_to_rom/*/*.py hdl/*.py hdl/*/*.py sim/*.py sim/rtl/* \
                      hardwire/compile*.py)

$(DEMO)/report.json: $(SOURCES) | $(CORE)
	$(BIN)/hardwire compile stories-260k --out $(DEMO) --row-lanes 2

test: $(TEST) ## run the test suite, but for the slow parts below
	@PYTHON=$(PYTHON) .ci/packages test
	$(BIN)/pytest -n 2 --dist loadgroup

test-smollm2: $(TEST) ## compile SmolLM2-135M, and compare its RTL with the integer model (minutes)
	$(BIN)/pytest -m smollm2

test-ice40: $(TEST) ## build iCE40 bitstreams, and compare contents, placed cells, and one unpacked again with the model (minutes)
	@PYTHON=$(PYTHON) .ci/packages ice40
	$(BIN)/pytest -m ice40

test-ecp5: $(TEST) ## build an ECP5's bitstream, and compare every block RAM in it with the model's ROMs (minutes)
	$(BIN)/pytest -m ecp5

test-kit: $(TEST) ## run the kit's benches, let other tools read it, and compare a synthesised netlist with the model (minutes)
	@PYTHON=$(PYTHON) .ci/packages kit
	$(BIN)/pytest -m kit

test-wheel: $(TEST) ## build the wheel, install it in a fresh environment, and compile, run and verify with it
	@PYTHON=$(PYTHON) .ci/packages test
	$(BIN)/pytest -m wheel

test-litex: $(LITEX) ## write the LiteX system of examples/litex, simulate it, and compare its tokens with golden's
	@PYTHON=$(PYTHON) .ci/packages test
	$(BIN)/pytest -m litex

tokens-truth: $(TEST) ## compare the tokens of 5,000 texts with transformers', sentencepiece's and llama.cpp's (minutes)
	$(BIN)/python tests/data/generators/tokens.py

fuzz: $(TEST) ## read 60,000 damaged and hostile files of every kind: SEED=... (about ten minutes)
	$(BIN)/python -m tests.fuzz.run --seed $(SEED)

formal: $(TEST) ## prove what must hold whatever the units are given (docs/explanation/formal.md)
	$(BIN)/python tests/formal/prove.py

fingerprint: $(TEST) ## compare all that the generator writes with the recorded hashes: no byte changes by accident
	$(BIN)/python tools/fingerprint.py

lint: $(TEST) $(LINT) ## run the linter, the formatter's check and the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(LINT) ## run the formatter
	$(BIN)/ruff format .

docs: $(DOCS) ## build the site of the documentation in build/site; printed pages and links are checked
	$(BIN)/python tools/reference.py --check
	$(BIN)/python tools/figures.py --check
	$(BIN)/python tools/pictures.py --check
	$(BIN)/python tools/questions.py --check
	$(BIN)/python tools/bench.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

printed: $(CORE) ## print the pages and pictures again that are made from code and from reports
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/figures.py
	$(BIN)/python tools/pictures.py
	$(BIN)/python tools/questions.py
	$(BIN)/python tools/bench.py

bench: $(BENCH) ## measure llama.cpp on this machine, and print the page that compares it with the chip and with published boards
	$(BIN)/python tools/bench.py --measure
	@cat docs/explanation/comparison.md

lock: $(CORE) ## resolve the files of requirements/ again, all together
	$(BIN)/python tools/lock.py

verilog: $(CORE) ## MODEL=... OUT=...: compile a model as far as ROM images and Verilog
	$(BIN)/hardwire compile "$(MODEL)" --out "$(OUT)" --no-simulation

sim: $(CORE) ## OUT=... PROMPT=...: let the simulated chip in OUT continue a prompt
	$(BIN)/hardwire run "$(OUT)" --prompt "$(PROMPT)" --tokens $(TOKENS)

bitstream: $(FPGA) ## BOARD=... MODEL=...: build a bitstream of a model for a board (minutes)
	$(BIN)/hardwire fpga build "$(MODEL)" --board "$(BOARD)"

flash: $(FPGA) ## BOARD=... MODEL=...: load that bitstream into the board that is plugged in
	$(BIN)/hardwire fpga flash "build/$(MODEL)-$(BOARD)" --board "$(BOARD)"

clean: ## remove what was built, but not .venv
	rm -rf build .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
