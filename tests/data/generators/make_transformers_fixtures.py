"""Write the fixtures beside this file: tiny random Llamas, saved by transformers itself.

    pip install torch transformers
    python tests/data/generators/make_transformers_fixtures.py

``expected.json`` holds what transformers makes of them: the SHA-256 of each weight as little-endian float32,
the rotation frequencies, token numbers and the text of a chat.  The tests compare with it, and need neither
package.
"""

import hashlib
import json
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parents[1]
TEXT = "Once upon a time there was a little dog. The little dog was happy. It was a happy little time, once."
TEXTS = [TEXT, "a dog\n\n the  dog é 12", "<|im_start|>user\nhi<|im_end|>", ""]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": " Tell me. "}, {"role": "assistant", "content": "Once"}]

FIXTURES = {
    # Grouped queries, heads wider than dim / n_heads, tied, Llama-3 rope, bfloat16 in shards, a tokenizer.
    "transformers_gqa": (
        LlamaConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=40,
            vocab_size=320,
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
            bos_token_id=0,
            eos_token_id=[1, 3],
        ),
        torch.bfloat16,
        {"max_shard_size": "12KB"},
    ),
    # Every head its own keys, head_dim from dim, untied, float16 in one file, no tokenizer.
    "transformers_mha": (
        LlamaConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=20,
            vocab_size=33,
            max_position_embeddings=64,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        ),
        torch.float16,
        {},
    ),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    model.train_from_iterator(
        [TEXT],
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    model.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", model.token_to_id("<|begin|>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token="<|begin|>", eos_token="<|end|>", chat_template=CHAT_TEMPLATE)


def main() -> None:
    for name, (config, dtype, options) in FIXTURES.items():
        torch.manual_seed(len(name))
        model = LlamaForCausalLM(config)
        # Norms are ones when new; a fixture should tell them apart.
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model = model.to(dtype)
        model.save_pretrained(HERE / name, **options)
        expected = {
            "weights": {
                key: hashlib.sha256(value.float().numpy().astype("<f4").tobytes()).hexdigest()
                for key, value in model.state_dict().items()
            },
            "rope": LlamaForCausalLM(config).model.rotary_emb.inv_freq.double().tolist(),
        }
        if name == "transformers_gqa":
            tokenizer = make_tokenizer()
            tokenizer.save_pretrained(HERE / name)
            expected |= {
                "encoded": [[text, tokenizer(text).input_ids] for text in TEXTS],
                "messages": MESSAGES,
                "chat": tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True),
            }
        (HERE / name / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
