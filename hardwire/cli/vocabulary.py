"""The words of ``--json``: every name that a command prints, with the one meaning that it has everywhere.

docs/reference/json.md is printed from here.
"""

from collections.abc import Iterator

SCHEMA = 1
"""The version of the names below, which stands in every output.  It grows when a name goes, or changes its meaning."""

MEANINGS = {
    "schema": "version of these names",
    # Texts and tokens.
    "prompt": "the text that was continued",
    "prompts": "the texts that were continued",
    "text": "the text that the model wrote",
    "prompt_tokens": "token numbers that the model read",
    "tokens": "token numbers that the model wrote",
    "token": "a token number",
    "n_prompt_tokens": "number of tokens that the model read",
    "n_tokens": "number of tokens that the model wrote, that were compared, or that were predicted",
    "n_identical_tokens": "those of `n_tokens` that equal golden's",
    "n_logits": "number of logits that were compared",
    "n_identical_logits": "those of `n_logits` that equal golden's",
    "n_beats": "by port, number of beats that were compared",
    "n_identical_beats": "by port, those of `n_beats` that equal golden's",
    "first_difference": "the first difference from golden, with its place and both values, or null",
    "position": "position of the first of these tokens in the text, from 0",
    "context": "positions that a token attends to, itself included",
    "window": "tokens of a window",
    "perplexity": "exponential of the mean loss of a token",
    "against": "the backend that was compared with",
    "against_perplexity": "its perplexity",
    "kl_divergence": "mean KL divergence of `backend` from `against`, in nats a token",
    "same_first_choice": "share of the tokens for which both have the same likeliest token",
    "read_again": "whether the model read the whole conversation again",
    "stopped_by": "why the text ends: `tokens`, `end of text` or `context full`",
    "backend": "`rtl`, `golden`, `float` or `board`",
    # Cycles and times.
    "cycles": "cycles of a token",
    "cycles_per_token": "mean cycles of a token",
    "busy": "share of the cycles in which the fabric reads a weight word",
    "busy_within_matrices": "the same share, of the cycles from a matrix's first word to its last",
    "busy_within_each_matrix": "the same share, by step of a layer",
    "simulated_cycles_per_second": "cycles that the simulation ran in a second",
    "prefill": "by context, cycles of a token without the LM head",
    "seconds": "seconds of the work",
    "prompt_seconds": "seconds in which the prompt was read",
    "step_seconds": "seconds by step",
    "tokens_per_second": "tokens in a second",
    "decode_tokens_per_second": "by context, tokens in a second",
    "clock_mhz": "clock in MHz",
    "predicted": "cycles of a token, predicted from shapes",
    "measured": "cycles of a token, measured on the simulated chip, or null",
    "difference": "`predicted` / `measured` - 1, or null",
    "by_unit": "cycles of a token by unit",
    "fabric": "share of the cycles in which the fabric reads words",
    "waits_most_for": "the unit for which the fabric waits longest",
    "more": "change of the cycles, as a share",
    "switching_cycles": "cycles more of a token whose predecessor had another adapter, or null",
    # Models and chips.
    "model": "name or path of the model",
    "name": "name of the model, board, adapter or memory",
    "description": "the model in a few words",
    "origin": "where the model comes from",
    "path": "path of the model, or null if it is not here",
    "notes": "remarks on the checkpoint, a line each",
    "parameters": "number of parameters",
    "multipliers": "number of multipliers for weights",
    "lora_multipliers": "number of multipliers for adapters",
    "rom_bits": "bits of ROM, padding included",
    "bits_per_weight": "`rom_bits` / `parameters`",
    "kv_sram_bits": "bits of the KV cache",
    "lora_sram_bits": "bits of the memory of all adapters",
    "sram_bits": "bits of memory of the adapters named here",
    "weight_words_per_token": "weight words that the fabric reads for a token",
    "lanes": "the options of the chip",
    "blocks_kept": "blocks of weights with the codes of the file",
    "blocks_requantised": "blocks of weights with other codes than the file's",
    "worst_block_error": "largest error of a block of weights, as a share of its row's rms weight",
    "worst_block_error_in": "the tensor with that block, or null",
    "residual_shift": "the residual stream is scaled by 2 to this power",
    "residual_peak": "largest magnitude of the residual stream on a few tokens, as a share of its range",
    "saturated": "by kind, numbers at a limit of their format on those tokens",
    "first_saturated": "the first place with such a number; empty if there is none",
    "coarse_embeddings": "tokens whose embedding has fewer bits than a block can hold",
    "flat_logits": "tokens whose logits hardly differ",
    "lane": "an option of the chip",
    "value": "another value of that option",
    "instead_of": "its present value",
    "changed": "ROM images that changed",
    "unchanged": "ROM images that did not",
    "verilog_identical": "whether the Verilog is the same to the byte",
    "verilog_sha256": "SHA-256 of the Verilog",
    "layers": "layers whose units were compared",
    "unit": "a unit of the chip",
    # Adapters.
    "slot": "number by which the chip knows the adapter",
    "targets": "projections that the adapter changes",
    "steps": "steps of a layer that the adapter changes",
    "rank": "rank of the adapter",
    "chip_rank": "largest rank that the chip takes",
    "frame_words": "32-bit words that load the adapter",
    "layout": "word 1 of the load image",
    # Files.
    "file": "path of the file that was written",
    "folder": "path of the folder that was written",
    "picture": "path of the picture, or null",
    "bytes": "bytes of the file",
    # Boards.
    "board": "name of the board",
    "device": "the FPGA",
    "package": "its package",
    "oscillator_mhz": "clock of the oscillator on the board, in MHz",
    "luts": "LUTs",
    "flip_flops": "flip-flops",
    "block_rams": "block RAMs",
    "dsps": "DSPs",
    "sprams": "large memories of an iCE40 UP5K",
    "largest_model": "the largest bundled model that fits, or null",
    "build": "the build whose figures stand in docs, or null",
    "identity": "64 bits that name the model and the chip, in hexadecimal",
    "fmax_mhz": "fastest clock after route, in MHz",
    "timing_met": "whether `fmax_mhz` reaches `clock_mhz`",
    "seed": "start value of placement",
    "cycles_are": "how the cycles were found",
    "logic_ns": "nanoseconds in the cells of the unit",
    "wires_ns": "nanoseconds on the wires that leave them",
    "tools": "versions of the tools",
    "bitstream": "path of the bitstream",
    "words": "words of the memory",
    "bits": "bits of a word",
    "logic": "memories in logic, which are not read back",
    # The line to a board.
    "bytes_sent": "bytes that went to the board",
    "bytes_received": "bytes that came from the board",
    "frames_lost": "frames of the board that came damaged and were dropped",
    "requests_repeated": "requests that were sent again, because no answer came",
}

_COUNTS = "{n_tokens n_identical_tokens n_logits n_identical_logits first_difference cycles_per_token busy busy_within_matrices}"
_RATES = "prompt_seconds seconds tokens_per_second cycles_per_token"
_CELLS = "luts flip_flops block_rams dsps"
_REPORT = (
    "model notes derived.{parameters rom_bits bits_per_weight kv_sram_bits lora_sram_bits multipliers weight_words_per_token "
    "lanes.*} "
    "measured.{blocks_kept blocks_requantised worst_block_error worst_block_error_in prefill.* "
    "ranges.{n_tokens residual_shift residual_peak saturated.* first_saturated coarse_embeddings flat_logits} "
    "decode.*.{cycles busy busy_within_matrices} busy_within_each_matrix.* simulated_cycles_per_second step_seconds.*} "
    "projected.{clock_mhz decode_tokens_per_second.*}"
)
_TOKEN = "{cycles by_unit.*}"
_COMPARED = "{predicted measured difference}"

COMMANDS = {
    "compile": _REPORT,
    "respin": f"{_REPORT} respin.{{changed unchanged verilog_identical verilog_sha256}}",
    "run": f"backend prompt text position prompt_tokens tokens stopped_by measured.{{{_RATES} busy busy_within_matrices "
    f"simulated_cycles_per_second}} projected.{{clock_mhz tokens_per_second}} check.{_COUNTS}",
    "chat": f"prompt text prompt_tokens tokens read_again measured.{{n_prompt_tokens n_tokens {_RATES}}} "
    "line.{bytes_sent bytes_received frames_lost requests_repeated}",
    "verify": f"{_COUNTS} sample.{{layers n_beats.* n_identical_beats.*}} prompts n_prompt_tokens seconds",
    "explain": f"context lanes.* predicted.{{decode.{_TOKEN} prefill.{_TOKEN}}} fabric waits_most_for "
    f"contexts.*.{{decode.{_COMPARED} prefill.{_COMPARED}}} instead.{{lane value instead_of cycles more}} picture",
    "trace": "file bytes unit position token cycles",
    "perplexity": "perplexity n_tokens window backend against against_perplexity kl_divergence same_first_choice seconds",
    "models": "models.{name description origin path}",
    "lora pack": "name folder slot targets rank chip_rank steps worst_block_error worst_block_error_in sram_bits "
    "frame_words layout",
    "lora cost": "context chip_rank multipliers lora_multipliers sram_bits cycles.* more.* switching_cycles",
    "boards": f"boards.{{name device package oscillator_mhz {_CELLS} largest_model "
    "build.{model fmax_mhz clock_mhz context cycles_per_token tokens_per_second}}",
    "fpga build": f"model identity board clock_mhz fmax_mhz seed {_CELLS} sprams critical_path.{{unit logic_ns wires_ns}} tools.* "
    f"context cycles_per_token cycles_are tokens_per_second timing_met estimated.{{{_CELLS} clock_mhz}} lanes.* bitstream",
    "fpga flash": "board bitstream",
    "fpga verify": "board bitstream memories.{name words bits block_rams} logic",
}
"""What each command prints.  ``a.{b c}`` is an object ``a``, or a list of such objects, and ``*`` any name in an object."""


def paths(command: str) -> list[str]:
    """Return the paths of all values that a command prints, each as names with dots between them."""
    return ["schema", *_expanded(COMMANDS[command])]


def _expanded(text: str) -> Iterator[str]:
    depth = begin = 0
    for i, character in enumerate(f"{text} "):
        depth += (character == "{") - (character == "}")
        if character == " " and depth == 0:
            word = text[begin:i]
            before, brace, within = word.partition("{")
            yield from (f"{before}{path}" for path in _expanded(within[:-1])) if brace else [word]
            begin = i + 1


def unknown(command: str, figures: object) -> list[str]:
    """Return the paths of values in ``figures`` that the command is not said to print."""
    known = [path.split(".") for path in paths(command)]
    open_ended = [words[:-1] for words in known if words[-1] == "*"]
    found = []

    def walk(value: object, words: list[str]) -> None:
        if _matches(words, known) or any(_matches(words[: len(base)], [base]) for base in open_ended if len(words) > len(base)):
            return
        if isinstance(value, dict):
            for name, of in value.items():
                walk(of, [*words, name])
        elif isinstance(value, list) and value:
            for of in value:
                walk(of, words)
        elif value is not None and value != []:
            found.append(".".join(words))

    walk(figures, [])
    return found


def _matches(words: list[str], known: list[list[str]]) -> bool:
    return any(len(words) == len(of) and all(b in ("*", a) for a, b in zip(words, of, strict=True)) for of in known)


HEAD = f"""\
# JSON

Every command has `--json`: it prints one object on stdout and nothing else there; `chat` prints one in a line for each answer.
`schema` is the version of the names on this page, now {SCHEMA}. It grows when a name goes, or changes its meaning; new names may
come at any time. A name has one meaning wherever it stands. Lists of token numbers are called `tokens`, and counts of tokens,
logits and beats begin with `n_`. `report.json` in OUT and in OUT/fpga/BOARD has the same names.

Printed from the code by `tools/reference.py`.
"""


def page() -> str:
    """Return docs/reference/json.md."""
    lines = [HEAD, "## Names\n", "| name | meaning |\n|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in MEANINGS.items()]
    lines.append(
        "\n## Commands\n\n`*` stands for any name: a context, a unit, a step, an option of the chip. Some values come only"
    )
    lines.append("with an option, as `check` does with `--check`.")
    for command in COMMANDS:
        lines.append(f"\n### hardwire {command}\n\n{', '.join(f'`{path}`' for path in paths(command))}")
    return "\n".join(lines) + "\n"
