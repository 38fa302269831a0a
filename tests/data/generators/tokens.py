"""Ask the other libraries for the tokens of 5,000 texts, with every kind of tokenizer, and compare Hardwire's with them.

    make tokens-truth                                             compares
    .venv/bin/python tests/data/generators/tokens.py --record     and writes tests/data/tokens/expected.npz, for the test suite
    .venv/bin/python tests/data/generators/tokens.py --train      trains the three vocabularies again, first

transformers 4, transformers 5 and llama.cpp cannot live in one environment: each gets one of its own in build/tokens.  Of the
libraries that read a case the first decides where they differ, so that Hardwire agrees with all of them where they agree.
"""

import argparse
import importlib.metadata
import io
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "tokens"
PACKAGES = {
    "transformers 4": ["transformers<5", "sentencepiece", "protobuf"],
    "transformers 5": ["transformers>=5", "sentencepiece", "protobuf"],
    "llama.cpp": ["xllamacpp"],
}
# The environment of each library.
ORACLES = {
    "transformers 4, slow": "transformers 4",
    "transformers 4, fast": "transformers 4",
    "transformers 5": "transformers 5",
    "llama.cpp": "llama.cpp",
    "sentencepiece": "transformers 4",
}
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# llama.cpp's unigram takes this character for a letter.  Sentencepiece itself takes it for a space, and so does Hardwire.
EXCEPT = {"GGUF unigram": [SPACE]}
# Texts of which all tokens are recorded; of the others, their digest.
N_WHOLE = 300


def oracles(name: str, folder: Path) -> list[str]:
    """The libraries that can read a case; the first decides."""
    if name.startswith("GGUF"):
        return ["llama.cpp"]
    if name == "llama2.c":
        return ["sentencepiece"]
    if name.startswith("json"):
        return ["transformers 5", "transformers 4, fast"]
    legacy = json.loads((folder / "tokenizer_config.json").read_text())["legacy"]
    slow_and_fast = ["transformers 4, slow", "transformers 4, fast"]
    # transformers 5 takes the tokenizer.model of every Llama for BPE.
    return (slow_and_fast if legacy else slow_and_fast[::-1]) + ([] if name.startswith("unigram") else ["transformers 5"])


def ask_transformers(folder: Path, texts: list[str], fast: bool) -> list[list[int]]:
    """The tokens by transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=fast)
    assert tokenizer.is_fast == fast
    return [tokenizer.encode(text) for text in texts]


def ask_sentencepiece(folder: Path, texts: list[str]) -> list[list[int]]:
    """The begin token and the tokens by sentencepiece, which does not know that a text may spell a control token."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "same.model"))
    control = {"<s>": [1], "</s>": [2], "<unk>": [0]}
    parts = [re.split("(</?s>|<unk>)", text) for text in texts]
    return [[1, *(i for part in line for i in control.get(part) or model.encode(part))] for line in parts]


def ask_llama(folder: Path, texts: list[str]) -> list[list[int]]:
    """The tokens by the server of llama.cpp, which is the only thing that the package offers."""
    import http.client

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "model.gguf")
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 64, 1, False, 0
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    connection = http.client.HTTPConnection(server.listening_address.removeprefix("http://"))
    found = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True})
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        found.append(json.loads(connection.getresponse().read())["tokens"])
    return found


def answer(oracle: str, folder: Path, texts: list[str]) -> dict:
    """The tokens and the version of a library, in whose environment this runs."""
    package = {"llama.cpp": "xllamacpp", "sentencepiece": "sentencepiece"}.get(oracle, "transformers")
    if oracle == "llama.cpp":
        ids = ask_llama(folder, texts)
    elif oracle == "sentencepiece":
        ids = ask_sentencepiece(folder, texts)
    else:
        ids = ask_transformers(folder, texts, fast="slow" not in oracle)
    return {"ids": ids, "version": f"{package} {importlib.metadata.version(package)}"}


def environment(name: str) -> Path:
    """The Python of an environment, which is made if it is not there."""
    folder = ROOT / "build" / "tokens" / name.replace(" ", "-")
    python, done = folder / "bin" / "python", folder / "done"
    if not done.is_file():
        print(f"installing {', '.join(PACKAGES[name])} into {folder.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]], check=True)
        done.touch()
    return python


def ask(oracle: str, folder: Path, texts: Path) -> dict:
    """The answer of a library, in its environment."""
    out = folder / f"{oracle}.json"
    command = [environment(ORACLES[oracle]), __file__, "--answer", oracle, folder, texts, out]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{oracle} cannot read {folder}:\n{result.stderr}")
    return json.loads(out.read_text())


def train() -> None:
    """Train the vocabularies, on Python's source of argparse and on words of many scripts."""
    import sentencepiece
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    from tests.support.tokens import WORDS
    from weights_to_rom.text.byte_level import PRE_TOKENIZERS

    chance = random.Random(1)
    corpus = [line for line in Path(argparse.__file__).read_text().splitlines() if line.strip()]
    corpus += [" ".join(chance.choices(WORDS, k=9)) for _ in range(700)]
    DATA.mkdir(exist_ok=True)
    for kind in ("bpe", "unigram"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            minloglevel=2,
            model_type=kind,
            vocab_size=700,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9995,
            num_threads=1,
        )
        (DATA / f"{kind}.model").write_bytes(model.getvalue())
    model = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PRE_TOKENIZERS["llama-bpe"][0]), "isolated")
    model.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    model.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    (DATA / "tokenizer.json").write_text(json.dumps(json.loads(model.to_str()), ensure_ascii=False, separators=(",", ":")))


def compare(record: bool) -> int:
    """Print a line for each case, and return the number of texts on which Hardwire differs."""
    import numpy as np

    from tests.support.tokens import CASES, digest, digests, texts, tokenizer_of

    lines, wrong = texts(), 0
    expected: dict[str, np.ndarray] = {"texts": np.array(digest(lines))}
    versions = set()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(lines))
        for name, write in CASES.items():
            case = Path(folder) / name
            case.mkdir()
            write(case)
            tokenizer = tokenizer_of(case)
            ours = [tokenizer.encode(line) for line in lines]
            answers = {oracle: ask(oracle, case, file) for oracle in oracles(name, case)}
            versions |= {found["version"] for found in answers.values()}
            right = next(iter(answers.values()))["ids"]
            right = [a if text in EXCEPT.get(name, []) else b for text, a, b in zip(lines, ours, right, strict=True)]
            different = [i for i, (a, b) in enumerate(zip(ours, right, strict=True)) if a != b]
            wrong += len(different)
            same = {oracle: sum(a == b for a, b in zip(ours, found["ids"], strict=True)) for oracle, found in answers.items()}
            print(f"{name}: " + ", ".join(f"{n:,} of {len(lines):,} as {oracle}" for oracle, n in same.items()))
            for i in different[:3]:
                print(f"    {lines[i]!r}\n    Hardwire {ours[i]}\n    expected {right[i]}")
            whole = right[:N_WHOLE]
            expected[f"{name}/digests"] = np.array([bytes.fromhex(entry) for entry in digests(right)], "V16")
            expected[f"{name}/lengths"] = np.array([len(ids) for ids in whole], np.uint16)
            expected[f"{name}/ids"] = np.array([i for ids in whole for i in ids], np.uint16)
    print(", ".join(sorted(versions)))
    if record and not wrong:
        expected["versions"] = np.array(sorted(versions))
        np.savez_compressed(DATA / "expected.npz", **expected)
        print(f"wrote {DATA.relative_to(ROOT)}/expected.npz")
    return wrong


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        which, place, given, target = sys.argv[2:]
        Path(target).write_text(json.dumps(answer(which, Path(place), json.loads(Path(given).read_text()))))
    else:
        sys.path.insert(0, str(ROOT))
        parser = argparse.ArgumentParser(description="Compare Hardwire's tokens with those of other libraries.")
        parser.add_argument("--record", action="store_true", help="write expected.npz")
        parser.add_argument("--train", action="store_true", help="train the vocabularies again, first")
        options = parser.parse_args()
        if options.train:
            train()
        sys.exit(compare(options.record) > 0)
