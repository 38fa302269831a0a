"""Changed tokenizers, their settings, and chat templates."""

import json
import math
import random
from pathlib import Path

import jinja2

from tests.fuzz import bases, formats, values
from tests.fuzz.kind import use_tokenizer
from weights_to_rom.errors import HardwireError
from weights_to_rom.json_file import read_json_object
from weights_to_rom.text.open import read_tokenizer

# Tokenizers

_TOKENIZER_KEYS = ["normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "truncation", "padding", "version"]
_BOMBS = [{"type": "Split", "pattern": {"Regex": "(a+)+$|(.*)*x"}, "behavior": "Isolated", "invert": False},
          {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
          {"type": "Sequence", "pretokenizers": []}, {"type": "Digits", "individual_digits": True},
          {"type": "Metaspace", "replacement": "xx", "prepend_scheme": "always"}]  # fmt: skip


def make_tokenizer_json(rng: random.Random, folder: Path) -> bool:
    """A tokenizer.json, changed."""
    config = bases.tokenizer_json(rng.choice(["bytes", "unigram", "sentencepiece"]))
    if rng.random() < 0.1:
        config["pre_tokenizer"] = rng.choice(_BOMBS)
    changed = values.tree(rng, config, _TOKENIZER_KEYS)
    (folder / "tokenizer.json").write_bytes(values.encoded(rng, changed, 0.05))
    vocabulary = changed.get("model", {}).get("vocab") if isinstance(changed.get("model"), dict) else None
    return isinstance(vocabulary, list) and values.has_nonfinite(vocabulary)


def first_tokenizer_json(folder: Path) -> object:
    return read_json_object(folder / "tokenizer.json", HardwireError)


def use_tokenizer_json(folder: Path) -> None:
    use_tokenizer(read_tokenizer(folder / "tokenizer.json"))


def make_sentencepiece(rng: random.Random, folder: Path) -> bool:
    """A tokenizer.model, with pieces, scores, kinds or settings changed."""
    model = bases.sentencepiece_model()
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(model.pieces))
        text, score, kind = model.pieces[at]
        what = rng.randrange(9)
        if what == 0:
            model.pieces[at] = rng.choice([*values.TEXTS, b"\xff\xfe", text, "a", "<0xFG>", "a" * 20000]), score, kind
        elif what in (1, 2):
            model.pieces[at] = text, rng.choice([0.0, -0.0, 1.0, -1.0, 1e30, 1e-45, math.nan, math.inf, -math.inf]), kind
        elif what == 3:
            model.pieces[at] = text, score, rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 2**40])
        elif what == 4:
            model.pieces.insert(at, model.pieces[rng.randrange(len(model.pieces))])
        elif what == 5:
            del model.pieces[at : at + rng.choice([1, 10, 300])]
        elif what == 6:
            model.trainer[rng.choice([3, 4, 22, 35, 40, 41, 42, 43])] = rng.choice([0, 1, 2, 3, 4, 5, 299, 2**31, 2**64 - 1])
        elif what == 7:
            model.normalizer[rng.choice([3, 4, 5])] = rng.choice([0, 1])
        else:
            model.charsmap = rng.choice([b"", b"\0" * 8, rng.randbytes(40)])
        if not model.pieces:
            break
    data = model.bytes()
    (folder / "tokenizer.model").write_bytes(values.flipped(rng, data) if rng.random() < 0.08 else data)
    return any(kind in (1, 4) and not math.isfinite(score) for _, score, kind in model.pieces)


def first_sentencepiece(folder: Path) -> object:
    """The wire format alone: every field of the top message ends within the file."""
    data, at = (folder / "tokenizer.model").read_bytes(), 0
    while at < len(data):
        if data[at] & 7 != 2:
            raise HardwireError("no message")
        length, at, shift = 0, at + 1, 0
        while True:
            if at >= len(data) or shift > 63:
                raise HardwireError("no length")
            length |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        at += length
        if at > len(data):
            raise HardwireError("truncated")
    return None


def use_sentencepiece(folder: Path) -> None:
    use_tokenizer(read_tokenizer(folder / "tokenizer.model"))


def make_llama2c_tokenizer(rng: random.Random, folder: Path) -> bool:
    """A llama2.c tokenizer.bin, with tokens, scores or lengths changed."""
    texts, scores, _ = bases.vocabulary()
    tokens = []
    for text, score in zip(texts, scores, strict=True):
        data = text.replace("\u2581", " ").encode()
        tokens.append((score, len(data), data))
    tokens[1], tokens[2] = (0.0, 5, b"\n<s>\n"), (0.0, 6, b"\n</s>\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(tokens)) if rng.random() < 0.3 else rng.randrange(259, len(tokens)) if len(tokens) > 259 else 0
        score, length, data = tokens[at]
        what = rng.randrange(6)
        if what in (0, 1):
            tokens[at] = rng.choice([math.nan, math.inf, -math.inf, 1e30, 0.0, -1.0, 1e-45]), length, data
        elif what == 2:
            tokens[at] = score, rng.choice([0, 1, -1, 2**31 - 1, length + 1]), data
        elif what == 3:
            other = rng.choice([b"", b"\xff", b"a", b" ", data * 2, b"\0", "\u2581x".encode(), b"x" * 3000])
            tokens[at] = score, len(other), other
        elif what == 4:
            tokens.insert(at, rng.choice(tokens))
        else:
            del tokens[at : at + rng.choice([1, 1, 1, 5])]
    file = formats.llama2c_tokenizer(tokens, rng.choice([7, 0, -1, 2**31 - 1]))
    (folder / "tokenizer.bin").write_bytes(values.flipped(rng, file) if rng.random() < 0.08 else file)
    return any(not math.isfinite(score) for score, _, _ in tokens[3:])


def first_llama2c_tokenizer(folder: Path) -> object:
    """Every token ends within the file."""
    data, at = (folder / "tokenizer.bin").read_bytes(), 4
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little", signed=True)
        if at + 8 > len(data) or length < 0 or at + 8 + length > len(data):
            raise HardwireError("truncated")
        at += 8 + length
    return None


def use_llama2c_tokenizer(folder: Path) -> None:
    use_tokenizer(read_tokenizer(folder / "tokenizer.bin"))


_SETTINGS = ["bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token", "added_tokens_decoder",
             "chat_template", "additional_special_tokens", "legacy", "add_prefix_space", "eos_token_ids",
             "extra_special_tokens"]  # fmt: skip


def make_tokenizer_config(rng: random.Random, folder: Path) -> bool:
    """tokenizer_config.json and its companions, next to a tokenizer that is right."""
    if rng.random() < 0.5:
        (folder / "tokenizer.json").write_text(json.dumps(bases.tokenizer_json(rng.choice(["bytes", "sentencepiece"]))))
    else:
        (folder / "tokenizer.model").write_bytes(bases.sentencepiece_model().bytes())
    config = bases.tokenizer_config()
    if rng.random() < 0.3:
        config["chat_template"] = [{"name": "default", "template": bases.TEMPLATES[1]}, {"name": "tools", "template": ""}]
    (folder / "tokenizer_config.json").write_bytes(values.encoded(rng, values.tree(rng, config, _SETTINGS), 0.04))
    if rng.random() < 0.3:
        special = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "additional_special_tokens": ["<|im_end|>"]}
        (folder / "special_tokens_map.json").write_bytes(values.encoded(rng, values.tree(rng, special, _SETTINGS)))
    if rng.random() < 0.2:
        (folder / "added_tokens.json").write_bytes(values.encoded(rng, values.tree(rng, {"<|im_end|>": 298, "<x>": 299})))
    return False


def first_tokenizer_config(folder: Path) -> object:
    return read_json_object(folder / "tokenizer_config.json", HardwireError)


def use_tokenizer_folder(folder: Path) -> None:
    use_tokenizer(read_tokenizer(folder))


# Chat templates

_PIECES = ["{% for m in messages %}", "{% endfor %}", "{% if m.x %}", "{% else %}", "{% endif %}", "{{ m }}",
           "{{ messages[99].x }}", "{{ messages | length }}", "{% break %}", "{% continue %}", "{% set x = 1 %}", "{{ 1 / 0 }}",
           "{{ x.y.z }}", "{{ undefined() }}", "{{ raise_exception('a\\nb') }}", "{{ raise_exception(3) }}",
           "{{ 'a' * 100000 }}", "{{ messages | tojson(indent=4) }}", "{{ [].append(1) }}", "{{ ''.__class__.__mro__ }}",
           "{{ '{0.__class__}'.format(1) }}", "{{ 'é' | upper }}", "{% generation %}", "{% endgeneration %}",
           "{{ strftime_now('%Q') }}", "{{ strftime_now(3) }}", "{{ 'a' | int + [] }}", "{{ tools[0] }}", "{% raw %}",
           "{{ range(5) | list }}", "{{ namespace(a=1).a }}", "{{ messages | map(attribute='role') | join }}",
           "{{ {} | first }}", "{{", "{{ messages | sort }}", "{% include 'x' %}", "{% import 'x' as y %}", "{{ '%d' % 'x' }}",
           "{{ 'x'.center(9) }}", "{{ none + 1 }}", "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
           "{% filter upper %}x{% endfilter %}", "{{ cycler('a').next() }}", "{{ lipsum(n=2) }}", "{{ 2 ** 9 }}",
           "{{ messages[0] | xmlattr }}", "{{ 'a' | list | batch(2) | list }}", "{{ '\\ud800' }}"]  # fmt: skip
_ENDLESS = ["{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
            "{{ 'x' * 10 ** 10 }}", "{{ 'x' | center(10 ** 10) }}", "{{ range(99999) | list * 99999 }}", "{{ 9 ** 9 ** 9 }}",
            "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", "{{ '%09999999999d' % 1 }}",
            "{{ '{:>9999999999}'.format(1) }}"]  # fmt: skip


def make_template(rng: random.Random, folder: Path) -> bool:
    """A chat template, with statements put in, taken out or changed."""
    text = rng.choice(bases.TEMPLATES)
    for _ in range(rng.randint(1, 3)):
        starts = [i for i in range(len(text)) if text.startswith(("{%", "{{"), i)]
        at = rng.choice([0, len(text), *starts]) if rng.random() < 0.95 else rng.randrange(len(text) + 1)
        what = rng.random()
        if what < 0.7:
            piece = rng.choice(_ENDLESS) if rng.random() < 0.002 else rng.choice(_PIECES)
            text = text[:at] + piece + text[at:]
        elif what < 0.9:
            names = [name for name in ("content", "role", "messages", "bos_token", "add_generation_prompt", "loop") if name in text]
            text = text.replace(
                rng.choice([*names, "m"]), rng.choice(["x", "loop", "none", "m.x", "0", "[]", "'a'", "messages"]), 1
            )
        else:
            text = str(values.near(rng, text))
    (folder / "chat_template.jinja").write_bytes(text.encode("utf-8", "surrogatepass"))
    (folder / "tokenizer.json").write_text(json.dumps(bases.tokenizer_json("sentencepiece")))
    return False


def first_template(folder: Path) -> object:
    """A text that is a program."""
    try:
        text = (folder / "chat_template.jinja").read_bytes().decode("utf-8")
        return jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except (UnicodeDecodeError, jinja2.TemplateError, RecursionError):
        raise HardwireError("no template") from None


def use_template(folder: Path) -> None:
    use_tokenizer(read_tokenizer(folder))
