"""Print docs/questions.md: greedy answers of SmolLM2-135M to twenty questions, in floating point and on the chip's integers.

python tools/questions.py            print the page from docs/reports/questions.json
python tools/questions.py --check    exit 1 if the page is not what is printed
python tools/questions.py --ask      ask both backends (minutes), write the report, and print the page
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.printed import out_of_date, write_or_check  # noqa: E402

if TYPE_CHECKING:
    from sim.golden.llama import GoldenLlama
    from weights_to_rom.quantise.float_llama import FloatLlama

REPORT, PAGE = ROOT / "docs/reports/questions.json", ROOT / "docs/questions.md"
MODEL, N_TOKENS = "smollm2-135m", 16

QUESTIONS = (
    # question, and a pattern that a right answer contains
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Japan?", "Tokyo"),
    ("How many days are in a week?", "7|seven"),
    ("How many months are in a year?", "12|twelve"),
    ("How many legs does a spider have?", "8|eight"),
    ("What color is the sky on a clear day?", "blue"),
    ("What is 2 plus 2?", "4|four"),
    ("What is 10 minus 3?", "7|seven"),
    ("What is the opposite of hot?", "cold"),
    ("Which planet is closest to the Sun?", "Mercury"),
    ("What is the largest planet in the solar system?", "Jupiter"),
    ("What is the largest ocean on Earth?", "Pacific"),
    ("What do bees make?", "honey"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("What gas do plants take in from the air?", "carbon dioxide|CO2"),
    ("What is frozen water called?", "ice"),
    ("At how many degrees Celsius does water boil?", "100|hundred"),
    ("What language is spoken in Brazil?", "Portuguese"),
    ('What is the past tense of "go"?', "went"),
)

HEAD = """\
# Twenty questions

What does quantisation to the chip's integers change? SmolLM2-135M answers twenty questions, in floating point and on the
chip's integers (golden, which the chip equals to the bit). Both always take the likeliest token, and stop after {n_tokens} tokens.
The model is small, so that it is often wrong in floating point, too.

- Right in floating point: {float} of {n}. Right on the chip: {golden} of {n}. An answer counts as right if it contains the word
  or number that the question asks for.
- The same answer to the last token: {same} of {n}.

The first question shows where the difference comes from. After the prompt, the first choice in floating point is "The", and "L"
is 0.09 nats below it. With the chip's weights and activations in floating point it is 0.15 nats below, and the answer is right.
On the chip "L" is 0.03 nats above: the activations' rounding to eight bits decides between near equals, and the text goes on in
French. The codes of the weights are those of the checkpoint, which has four bits itself.

`tools/questions.py --ask` asks, and writes `docs/reports/questions.json`; this page is printed from that file. On a text,
`hardwire perplexity {model} --text FILE --against float` measures the same difference as a KL divergence
([Figures](figures.md#the-cost-of-quantisation)).
"""


def greedy(model: "FloatLlama | GoldenLlama", prompt: list[int], stop: Sequence[int]) -> list[int]:
    """Return the likeliest tokens after a prompt: N_TOKENS, or fewer up to a token of ``stop``, which is left out."""
    model.reset()
    tokens: list[int] = []
    given = prompt
    while len(tokens) < N_TOKENS:
        given = [int(np.argmax(model.extend(given)[-1]))]
        if given[0] in stop:
            break
        tokens += given
    return tokens


def ask() -> dict:
    """Ask both backends all questions."""
    from hardwire.target import Target
    from weights_to_rom.quantise.float_llama import FloatLlama

    target = Target(MODEL)
    tokenizer, checkpoint = target.tokenizer, target.source.checkpoint
    assert tokenizer is not None
    models = {"float": FloatLlama(checkpoint.config, checkpoint.tensor), "golden": target.golden()}
    answers = []
    for question, right in QUESTIONS:
        prompt = target.encode_chat([{"role": "user", "content": question}])
        tokens = {name: greedy(model, prompt, target.eos_token_ids) for name, model in models.items()}
        both = zip(*tokens.values(), strict=False)
        answers.append(
            {
                "question": question,
                "right": right,
                "same_tokens": next((n for n, (a, b) in enumerate(both) if a != b), min(map(len, tokens.values()))),
                **{name: {"text": tokenizer.decode(ids).strip(), "tokens": ids} for name, ids in tokens.items()},
            }
        )
        print(question, answers[-1]["float"]["text"], answers[-1]["golden"]["text"], sep="\n  ", file=sys.stderr)
    return {"model": MODEL, "n_tokens": N_TOKENS, "answers": answers}


def is_right(answer: dict, backend: str) -> bool:
    return re.search(rf"\b(?:{answer['right']})\b", answer[backend]["text"], re.IGNORECASE) is not None


def page(report: dict) -> str:
    """Print docs/questions.md from a report of ``ask``."""
    answers = report["answers"]
    counts = {backend: sum(is_right(answer, backend) for answer in answers) for backend in ("float", "golden")}
    same = [answer["float"]["tokens"] == answer["golden"]["tokens"] for answer in answers]
    head = HEAD.format(n=len(answers), same=sum(same), model=report["model"], n_tokens=report["n_tokens"], **counts)

    def cell(answer: dict, backend: str) -> str:
        text = " ".join(answer[backend]["text"].split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        cut = " ..." if len(answer[backend]["tokens"]) == report["n_tokens"] else ""
        return f"{'right' if is_right(answer, backend) else 'wrong'}: {text}{cut}"

    lines = ["| question | in floating point | on the chip |", "| --- | --- | --- |"]
    lines += [
        f"| {answer['question']} | {cell(answer, 'float')} | {'the same' if equal else cell(answer, 'golden')} |"
        for answer, equal in zip(answers, same, strict=True)
    ]
    return f"{head}\n" + "\n".join(lines) + "\n"


def differing() -> dict[Path, str]:
    """The page with its new contents, if it is out of date."""
    return out_of_date({PAGE: page(json.loads(REPORT.read_text()))})


def main(arguments: list[str]) -> int:
    if arguments == ["--ask"]:
        REPORT.write_text(json.dumps(ask(), indent=1, ensure_ascii=False) + "\n")
    return write_or_check(__file__, differing(), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
