"""The tiny model's tokenizer: whole words and single digits, each with its leading space; decoding loses nothing."""

from __future__ import annotations

import string

import numpy as np
from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from scripts.tiny_model.corpus import Slips, transcripts
from tracer_env.tasks.arithmetic import ArithmeticTask

__all__ = ["PATTERN", "build_tokenizer"]

PATTERN = r"\n| ?[0-9]| ?[A-Za-z]+| ?####| ?===| ?[^\sA-Za-z0-9]|\s"
SPECIAL = ("<pad>", "<eos>", "<unk>")


def build_tokenizer(num_questions: int = 4000) -> PreTrainedTokenizerFast:
    """Collect the words of ``num_questions`` training questions with their transcripts."""
    split = Split(Regex(PATTERN), behavior="isolated")
    words: set[str] = {"\n", " ", "\\", *string.punctuation}
    words.update(f"{space}{digit}" for digit in string.digits for space in ("", " "))
    rng = np.random.default_rng(0)
    task = ArithmeticTask("train")
    for index in range(num_questions):
        for game in transcripts(task, index, Slips(), rng):
            for example in game:
                text = example.prompt + example.utterance
                words.update(word for word, _ in split.pre_tokenize_str(text))
    vocab = {word: i for i, word in enumerate((*SPECIAL, *sorted(words)))}
    backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = split
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )
