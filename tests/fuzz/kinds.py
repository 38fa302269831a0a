"""The kinds of files, in the order in which the cases of a run take turns."""

from tests.fuzz import models, texts
from tests.fuzz.kind import Kind

KINDS: dict[str, Kind] = {
    "gguf": Kind(models.make_gguf, models.first_gguf, models.use_gguf),
    "safetensors": Kind(models.make_safetensors, models.first_safetensors, models.use_folder),
    "config.json": Kind(models.make_config, models.first_config, models.use_folder),
    "tokenizer.json": Kind(texts.make_tokenizer_json, texts.first_tokenizer_json, texts.use_tokenizer_json),
    "tokenizer.model": Kind(texts.make_sentencepiece, texts.first_sentencepiece, texts.use_sentencepiece),
    "tokenizer.bin": Kind(texts.make_llama2c_tokenizer, texts.first_llama2c_tokenizer, texts.use_llama2c_tokenizer),
    "tokenizer_config": Kind(texts.make_tokenizer_config, texts.first_tokenizer_config, texts.use_tokenizer_folder),
    "chat template": Kind(texts.make_template, texts.first_template, texts.use_template),
    "llama2.c": Kind(models.make_llama2c, models.first_llama2c, models.use_llama2c),
    "adapter": Kind(models.make_adapter, models.first_adapter, models.use_adapter),
}
