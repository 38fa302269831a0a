"""The kit: the files in OUT with which others use chip.v in a flow of their own.

README.md          how to simulate, lint, synthesise and talk to the chip
chip.vh            localparams for the fields of payloads, status codes and limits
tb.v               a test bench that compares the first tokens with the integer model's
cocotb_bench.py    the same with cocotb
tokens.json        the prompt and the tokens of both
chip.core          for FuseSoC
chip.sdc           timing constraints
lint.vlt           waivers for Verilator's linter
memories.json      the memories to be replaced by macros
"""
