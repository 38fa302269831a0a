"""Print docs/explanation/comparison.md: the chip, llama.cpp on one core of this machine, and boards that others published.

    python tools/bench.py             print the page from docs/reports/comparison.json and the reports of boards
    python tools/bench.py --check     exit 1 if the page is not what is printed
    python tools/bench.py --measure   measure llama.cpp first (a minute), and write its figures into comparison.json

The measurement needs the packages of requirements/bench.txt.
"""

import json
import math
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.figures import reports, table  # noqa: E402
from tools.printed import out_of_date, write_or_check  # noqa: E402

REPORT, PAGE = ROOT / "docs/reports/comparison.json", ROOT / "docs/explanation/comparison.md"
MODEL, PROMPT, N_TOKENS, REPEATS = "stories-260k", "Once upon a time", 128, 100

COLUMNS = [
    "what",
    "model",
    "parameters",
    "clock, MHz",
    "tokens/s",
    "tokens/s per MHz",
    "multiplications a cycle",
    "parameters x tokens/s, in G",
    "grade of tokens/s",
]

PUBLISHED = {
    # what: model, parameters, clock in MHz, tokens/s, whether tokens are characters, source
    "Taalas HC1, TSMC N6": (
        "Llama 3.1 8B",
        8_030_000_000,
        None,
        16_960,
        False,
        "vendor's figure for one user; [taalas.com](https://taalas.com/)",
    ),
    "TerEffic, AMD U280": (
        "MatMul-free LM, ternary",
        370_000_000,
        None,
        16_300,
        False,
        "all weights on the chips, which may be several FPGAs; [arXiv 2502.16473](https://arxiv.org/abs/2502.16473)",
    ),
    "gateGPT, Virtex-5": (
        "microGPT, context 16",
        8_592,
        80.0,
        60_600,
        True,
        "the average over a name, on the board; parameters counted from its shape; [gateGPT](https://github.com/fguzman82/gateGPT)",
    ),
    "TALOS-V2, Cyclone V": (
        "microGPT",
        4_192,
        56.25,
        53_000,
        True,
        "on the board; [the project's page](https://v2.talos.wtf/)",
    ),
}

HEAD = """\
# Comparison

One user, one token after the other. Each speed has a grade. *Measured*: a command of this project measured it. *Derived*: it
follows from measured figures. *Published*: the people whose work it is printed it. The other columns are derived from the speed.
"Multiplications a cycle" is parameters x tokens/s / clock, which are the useful ones. "Parameters x tokens/s" compares models of
different sizes.

`make bench` measures llama.cpp on the machine that it runs on, and prints this page.

## Tokens that are pieces of words

"""

TEXT = """
llama.cpp ran with one thread: {cpu}, {package}, the fastest of {repeats} runs of {n_tokens} tokens after
"{prompt}". Its weights are those of `{model}`, which the command writes as GGUF. In F32 its text equals that of this
project's floating point to the character. Its clock is the one that the machine states; a processor may run faster for a while.

The chips' clocks are those after place and route, and their cycles are those of the simulated chip
([Figures](../figures.md#on-boards)). Nobody has run a board yet.

## Tokens that are characters

A token is one character here, so that these figures do not compare with those above.

"""

SOURCES = """
## Sources of the published figures

"""


def write_gguf(path: Path, matrices: str) -> None:
    """Write the bundled model as GGUF; its matrices have the type ``matrices``, and the embedding at least eight bits."""
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFWriter, TokenType, quants

    from weights_to_rom.readers.open import open_checkpoint

    checkpoint = open_checkpoint(MODEL)
    config = checkpoint.config
    tokenizer = json.loads((ROOT / "models" / MODEL / "tokenizer.json").read_text())
    special = {token["id"] for token in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(vocabulary))])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_ids[0])
    writer.add_add_bos_token(True)
    names = {"embed": "token_embd", "norm": "output_norm", "o": "attn_output"}
    names |= {kind: f"attn_{kind}" for kind in "qkv"} | {kind: f"ffn_{kind}" for kind in ("gate", "up", "down")}
    for name, shape in config.tensor_shapes().items():
        head, _, kind = name.rpartition(".")
        tensor = checkpoint.tensor(name)
        if kind in ("q", "k"):  # llama.cpp rotates neighbours, so that the halves of a head are interleaved
            heads = config.n_heads if kind == "q" else config.n_kv_heads
            tensor = tensor.reshape(heads, 2, config.head_dim // 2, -1).swapaxes(1, 2).reshape(shape)
        coarse = Type.Q8_0 if kind == "embed" and matrices != "F32" else Type[matrices]
        one = Type.F32 if len(shape) == 1 else coarse
        full = f"{head.replace('layers', 'blk')}.{names.get(kind, kind)}".lstrip(".")
        writer.add_tensor(f"{full}.weight", quants.quantize(tensor, one), raw_dtype=one)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def float_text() -> str:
    """Return the text that this project's floating point writes after the prompt."""
    from hardwire.target import Target
    from sim.session import generate

    target = Target(MODEL)
    assert target.tokenizer is not None
    tokens = [reply.token for reply in generate(target.session("float"), target.encode(PROMPT), N_TOKENS)]
    return target.tokenizer.decode(tokens)


def completions(path: Path) -> tuple[str, list[float]]:
    """Let llama.cpp continue the prompt REPEATS times with one thread.  Returns the text, and the tokens a second of each run."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 512, 1, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    request = {"prompt": PROMPT, "max_tokens": N_TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    replies = [server.handle_completions(request) for _ in range(REPEATS)]
    (text,) = {reply["choices"][0]["text"] for reply in replies}
    return text, [reply["timings"]["predicted_per_second"] for reply in replies]


def processor() -> tuple[str, float]:
    """Return the name of the processor and its clock in MHz, from /proc/cpuinfo."""
    about = Path("/proc/cpuinfo").read_text()
    name, clock = re.search(r"model name\s*: (.*)", about), re.findall(r"cpu MHz\s*: (.*)", about)
    if name is None or not clock:
        raise SystemExit("/proc/cpuinfo: names no processor and no clock")
    return name[1], max(map(float, clock))


def measure() -> dict:
    """Measure llama.cpp with one thread, with F32 and with four-bit matrices."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for matrices in ("F32", "Q4_0"):
            path = Path(folder, f"{matrices}.gguf")
            write_gguf(path, matrices)
            text, rates = completions(path)
            if matrices == "F32" and text != (wanted := float_text()):
                raise SystemExit(f"llama.cpp does not write the text of floating point, but {text!r} instead of {wanted!r}")
            found[matrices] = round(max(rates))
    name, clock = processor()
    package = f"xllamacpp {version('xllamacpp')}"
    return {"cpu": name, "clock_mhz": round(clock), "package": package, "tokens_per_second": found}


def digits(value: float) -> str:
    """Print a number with three digits, and with commas."""
    return f"{float(f'{value:.3g}'):,g}"


def row(what: str, model: str, parameters: int, clock: float | None, rate: float, grade: str) -> list:
    """One row of a table.  Without a clock, what depends on it is left empty."""
    return [
        what,
        model,
        parameters,
        "" if clock is None else f"{clock:,g}",
        round(rate),
        "" if clock is None else digits(rate / clock),
        "" if clock is None else digits(parameters * rate / clock / 1e6),
        digits(parameters * rate / 1e9),
        grade,
    ]


def parameters(model: str) -> int:
    """Count the weights of a bundled model."""
    from weights_to_rom.readers.open import open_checkpoint

    return sum(math.prod(shape) for shape in open_checkpoint(model).config.tensor_shapes().values())


def page(measured: dict) -> str:
    """Print docs/explanation/comparison.md."""
    rows: dict[bool, list[list]] = {False: [], True: []}
    for matrices, rate in measured["tokens_per_second"].items():
        what = f"llama.cpp, {matrices}, one core"
        rows[False].append(row(what, f"`{MODEL}`", parameters(MODEL), measured["clock_mhz"], rate, "measured"))
    for report in reports():
        model = report["model"]
        what, rate = f"the chip on {report['board']}", report["tokens_per_second"]
        rows[model != MODEL].append(row(what, f"`{model}`", parameters(model), report["clock_mhz"], rate, "derived"))
    for what, (model, size, clock, rate, characters, _) in PUBLISHED.items():
        rows[characters].append(row(what, model, size, clock, rate, "published"))
    words, characters = (table(COLUMNS, sorted(rows[kind], key=lambda cells: cells[2] * cells[4])) for kind in (False, True))
    text = TEXT.format(**measured, repeats=REPEATS, n_tokens=N_TOKENS, prompt=PROMPT, model=MODEL)
    sources = "".join(f"- {what}: {about[-1]}.\n" for what, about in PUBLISHED.items())
    return f"{HEAD}{words}\n{text}{characters}\n{SOURCES}{sources}"


def differing() -> dict[Path, str]:
    """The page with its new contents, if it is out of date."""
    return out_of_date({PAGE: page(json.loads(REPORT.read_text()))})


def main(arguments: list[str]) -> int:
    if arguments == ["--measure"]:
        REPORT.write_text(json.dumps(measure(), indent=1) + "\n")
    return write_or_check(__file__, differing(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
