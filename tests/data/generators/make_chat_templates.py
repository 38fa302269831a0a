"""Write ``chat_templates.json`` beside this folder: small chat templates, and what transformers makes of them.

    pip install "transformers>=5.24"
    python tests/data/generators/make_chat_templates.py

Each entry is a template with the text that transformers renders, or null if it refuses the template.  The tests compare with it,
and do not need the package.
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": " What? "},
    {"role": "assistant", "content": "é\n"},
    {"role": "user", "content": "Why?"},
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

TURN = "{% macro turn(m, end='!') %}{{ m.role }}{{ end }}{{ caller() if caller }}{% endmacro %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% endif %}{% for m in loop_messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] "
    "if loop.first and system is defined else m['content'] %}"
    "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' if m['role'] == 'user' else ' ' + content | trim + ' ' + eos_token }}"
    "{% endfor %}"
)

TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}",
    "{% for m in messages %}\n  {% if m.role == 'user' %}\n    <{{ m.content }}>\n  {% endif %}\n{% endfor %}\nend\n",
    "{%- for m in messages -%}\n  {{- m.role }}\n{%- endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{% generation %}\n  {% set x = 1 %}\n  {{ loop.index }}{{ x }}\n{% endgeneration %}\n{% endfor %}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% generation %}{{ undefined }}",
    "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{% do messages.append(1) %}",
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}",
    "{{ messages | tojson(indent='--', ensure_ascii=true) }}",
    "{{ {'b': 1, 'a': [none, true, 1.5]} | tojson(separators=(',', ':'), sort_keys=true) }}",
    "{{ messages | tojson(default=dict) }}",
    "{{ messages | tojson(cls=none) }}",
    "{{ strftime_now('%%') }}{{ strftime_now('%Y') | length }}",
    "{{ raise_exception('no') }}",
    "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ nothing is defined }}",
    "{{ nothing }}|{{ nothing.more }}",
    "{% if messages[0].nothing %}a{% else %}b{% endif %}{{ messages[9] }}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% set ns.found = true %}{% endfor %}{{ ns.found }}",
    "{% set ns = namespace({'a': 1}, self=2) %}{{ ns.a }}{{ ns.self }}",
    "{% set ns = namespace(_a=1) %}{{ ns._a }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ dict(a=1) }}{{ dict([('b', 2)], c=3).items() | list }}{{ dict.fromkeys('xy', 0) }}",
    "{{ dict.mro() }}",
    "{{ dict.get({'a': 1}, 'a') }}",
    "{{ dict.__init__ }}|{{ namespace.__init__ }}|{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ messages[0].pop('role') }}",
    "{% set messages = messages[1:] + [{'role': 'assistant'}] %}{{ messages | map(attribute='role') | join(',') }}",
    "{{ messages[::-1] | map(attribute='content') | list }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | groupby('role') | length }}",
    "{{ 'a,b'.split(',')[1] }}{{ 'abc'[::-1] }}{{ 'x'.join(['1', '2']) }}{{ '%s-%d' % ('a', 3) }}{{ '{:>5}'.format('a') }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ range(3) | list }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ 1 if 0 else 2 }}{{ 3 | string ~ 'a' }}",
    "{{ range(100001) | list }}",
    TURN + "{{ turn(messages[0]) }}{% call turn(messages[1], end='') %}:{% endcall %}",
    "{% filter upper %}{{ messages[1].content }}{% endfilter %}{% set t %}block{% endset %}{{ t }}{{ t | length }}",
    "{% raw %}{{ no }}{% endraw %}{# nothing #}{{ '<b>' | escape }}{{ '<b>' }}",
    "{% include 'other' %}",
    "{% extends 'other' %}",
    "{% import 'os' as os %}",
    "{% if %}",
    "{% unknown %}",
    "{{ 'a' | unknown }}",
    "{{ unknown() }}",
    "{{ 1 / 0 }}",
    "{{ 'a'.encode('nope') }}",
    "{{ '{x}'.format('a') }}",
    "{{ messages | dictsort }}",
    "{{ cycler() }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    CHATML,
    LLAMA2,
]


def text_of(template: str) -> str | None:
    """The text that transformers renders, or None if it refuses."""
    try:
        (text,), _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **SPECIAL)
    except Exception:
        return None
    return text


def main() -> None:
    """Write the file."""
    entries = [{"template": template, "text": text_of(template)} for template in TEMPLATES]
    about = {"messages": MESSAGES, "special": SPECIAL, "templates": entries}
    (Path(__file__).parents[1] / "chat_templates.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
