"""Sampling with Hugging Face ``generate``: exact token ids and the log-probabilities they were sampled with.

Owns prompts-to-ids, batching and recording. Which weights answer is decided in ``policies.py``.
Shapes: ``B`` rows of a batch, ``U`` different prompts among them, ``P`` prompt tokens after padding, ``L`` new tokens,
``V`` vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tracer_agents.errors import ContextError
from tracer_agents.generators.policies import base_of, folded_policy, torch_seeded
from tracer_agents.interfaces import Candidate, Request
from tracer_env import Prompt, Role, Verdict
from tracer_env.errors import ConfigError

__all__ = ["TransformersGenerator"]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A prompt as the model reads it."""

    ids: tuple[int, ...]
    num_cut: int


class TransformersGenerator:
    """Writes texts with a ``transformers`` model. Satisfies ``tracer_agents.interfaces.Generator``.

    * The distribution sampled from is softmax(logits / temperature) over the whole vocabulary: no top-k, no top-p, no
      penalties, whatever the model folder's ``generation_config.json`` says. Its end-of-text ids are respected.
    * Requests of one policy and temperature are sorted by length and served in chunks; equal prompts of a chunk (the K
      candidates of a group) are read once. Greedy answers do not depend on which requests share the chunk; sampled
      ones do, because the chunk shares one random stream.
    * The global random state, the model's train flags and the active adapter are left as they were.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int,
        batch_size: int = 256,
        max_context_tokens: int | None = None,
        chat_options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        """Store what is needed; nothing is computed yet.

        Args:
            model: with adapters from ``add_policies``, or a bare model, which then writes for every policy.
            tokenizer: the model's, with a pad token (``load_base_model`` sees to it).
            max_new_tokens: longest text, in tokens, end-of-text included.
            batch_size: rows per call of ``generate``.
            max_context_tokens: prompt and text together; default and upper limit is what the model was made for.
            chat_options: passed to the chat template, for example ``{"enable_thinking": False}`` for Qwen3.
            seed: see ``reseed``.

        Raises:
            ConfigError: if a length or the batch size is not positive, or no room is left for a prompt.
        """
        longest = base_of(model).config.get_text_config().max_position_embeddings
        context = longest if max_context_tokens is None else max_context_tokens
        if max_new_tokens < 1 or batch_size < 1:
            raise ConfigError(f"max_new_tokens ({max_new_tokens}) and batch_size ({batch_size}) must be at least 1")
        if not max_new_tokens < context <= longest:
            raise ConfigError(
                f"max_context_tokens ({context}) must be above max_new_tokens ({max_new_tokens}) and at most what the "
                f"model was made for ({longest})"
            )
        if tokenizer.pad_token_id is None:
            raise ConfigError("the tokenizer has no pad token; set tokenizer.pad_token (load_base_model does)")
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.max_prompt_tokens = context - max_new_tokens
        self._chat_options = dict(chat_options or {})
        self._bos = _leading_special_ids(tokenizer)
        self._eos = _end_ids(base_of(model), tokenizer)
        self._verdict_ids = _verdict_ids(tokenizer)
        self._rng = np.random.default_rng(seed)

    def reseed(self, seed: int) -> None:
        """Restart the sampling randomness: the same seed and requests give the same candidates."""
        self._rng = np.random.default_rng(seed)

    def generate(self, requests: Sequence[Request]) -> list[Candidate]:
        """Write one candidate for each request, in order.

        Raises:
            ContextError: if a prompt does not fit and cannot be shortened enough.
            ConfigError: if a temperature is negative or a prompt empty.
            UnknownNameError: if a policy is not one of the model's.
        """
        encoded: dict[str, _Encoded] = {}
        queues: dict[tuple[str, float], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            if not request.temperature >= 0:
                raise ConfigError(f"temperature must be at least 0, got {request.temperature}")
            if request.prompt not in encoded:
                encoded[request.prompt] = self._encode(request.prompt)
            queues[request.policy, request.temperature].append(i)
        candidates: dict[int, Candidate] = {}
        for (policy, temperature), queue in queues.items():
            # Sorted by length so that little is padded; the text as second key keeps equal prompts together.
            queue.sort(key=lambda i: (len(encoded[requests[i].prompt].ids), requests[i].prompt))
            for start in range(0, len(queue), self.batch_size):
                chunk = queue[start : start + self.batch_size]
                written = self._write(
                    [encoded[requests[i].prompt] for i in chunk], [requests[i].role for i in chunk], policy, temperature
                )
                candidates.update(zip(chunk, written, strict=True))
        return [candidates[i] for i in range(len(requests))]

    # Prompts to ids.

    def _encode(self, prompt: str) -> _Encoded:
        """Turn a prompt into ids, cutting a ``Prompt`` until it fits."""
        lengths: list[int] = []

        def fits(text: str) -> bool:
            lengths.append(len(self._to_ids(text)))
            return lengths[-1] <= self.max_prompt_tokens

        can_be_cut = isinstance(prompt, Prompt)
        fitting = prompt.shorten(fits) if isinstance(prompt, Prompt) else prompt if fits(prompt) else None
        if fitting is None:
            raise ContextError(lengths[-1], self.max_prompt_tokens, self.max_new_tokens, shortened=can_be_cut)
        ids = tuple(self._to_ids(fitting))
        if not ids:
            raise ConfigError("a prompt must have at least one token")
        return _Encoded(ids, fitting.num_cut if isinstance(fitting, Prompt) else 0)

    def _to_ids(self, text: str) -> list[int]:
        """Return what the model reads: the text as one user message where there is a chat template."""
        bos = self._bos
        if self.tokenizer.chat_template is not None:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": str(text)}],
                tokenize=False,
                add_generation_prompt=True,
                **self._chat_options,
            )
            bos = []  # the template writes its own, where the model has one
        ids: list[int] = self.tokenizer(str(text), add_special_tokens=False)["input_ids"]
        return [*bos, *ids]

    # One chunk.

    def _write(
        self, prompts: Sequence[_Encoded], roles: Sequence[Role], policy: str, temperature: float
    ) -> list[Candidate]:
        seed = int(self._rng.integers(2**63))
        recorder = _Recorder(temperature, self._verdict_ids)
        unique = list(dict.fromkeys(prompts))
        row_of = {prompt: row for row, prompt in enumerate(unique)}
        rows = torch.tensor([row_of[prompt] for prompt in prompts], device=self.model.device)
        with ExitStack() as stack:
            base = stack.enter_context(folded_policy(self.model, policy))
            stack.enter_context(_evaluating(base))
            settings = stack.enter_context(_plain_settings(base, self._settings(sample=temperature > 0)))
            stack.enter_context(torch_seeded(seed, base.device))
            stack.enter_context(torch.inference_mode())
            unique_ids, unique_mask = self._pad(unique)
            cache = _read(base, unique_ids, unique_mask, rows) if len(unique) < len(rows) else None
            output = base.generate(
                input_ids=unique_ids[rows],
                attention_mask=unique_mask[rows],
                past_key_values=cache,
                generation_config=settings,
                logits_processor=LogitsProcessorList([recorder.scores]),
                stopping_criteria=StoppingCriteriaList([recorder.tokens]),
            )
            new_ids = output[:, unique_ids.shape[1] :].cpu().numpy()
        return self._candidates(prompts, roles, new_ids, recorder)

    def _candidates(
        self, prompts: Sequence[_Encoded], roles: Sequence[Role], new_ids: NDArray[np.int64], recorder: _Recorder
    ) -> list[Candidate]:
        logprobs, p_right = recorder.logprobs(), recorder.p_right()
        is_end = np.isin(new_ids, self._eos)
        ended: NDArray[np.bool_] = np.asarray(is_end.any(axis=1))
        lengths = np.where(ended, is_end.argmax(axis=1) + 1, new_ids.shape[1])
        sampled = [row[:length] for row, length in zip(new_ids, lengths, strict=True)]
        texts = self.tokenizer.batch_decode(
            [row[:-1] if end else row for row, end in zip(sampled, ended, strict=True)],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return [
            Candidate(
                text=texts[b],
                prompt_ids=np.array(prompts[b].ids, dtype=np.int64),
                token_ids=sampled[b].astype(np.int64),
                logprobs=logprobs[b, : lengths[b]].copy(),
                p_right=float(p_right[b]) if roles[b] is Role.REVIEWER and p_right is not None else None,
                truncated=not ended[b],
                num_cut=prompts[b].num_cut,
            )
            for b in range(len(prompts))
        ]

    def _pad(self, prompts: Sequence[_Encoded]) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask, shape (U, P), padded on the left."""
        width = max(len(p.ids) for p in prompts)
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask[row, width - len(prompt.ids) :] = 1
        return ids.to(self.model.device), mask.to(self.model.device)

    def _settings(self, *, sample: bool) -> GenerationConfig:
        # Everything that shapes the distribution is off here; the recorder applies the temperature itself.
        off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
        return GenerationConfig(
            do_sample=sample,
            max_new_tokens=self.max_new_tokens,
            num_beams=1,
            repetition_penalty=1.0,
            use_cache=True,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self._eos,
            **off,
        )


class _Recorder:
    """Applies the temperature and keeps the log-probability of each token that ``generate`` then picks.

    Memory is O(B V) for the current step and O(B L) for the result; ``output_scores`` would keep O(B L V).
    """

    def __init__(self, temperature: float, verdict_ids: tuple[int, int] | None) -> None:
        self.temperature = temperature
        self.verdict_ids = verdict_ids
        self.current: Tensor | None = None
        self.steps: list[Tensor] = []
        self.verdict_logits: Tensor | None = None
        self.scores = _ScoreHook(self)
        self.tokens = _TokenHook(self)

    def logprobs(self) -> NDArray[np.float32]:
        """Return what was recorded, shape (B, L); entries after a row's end-of-text mean nothing."""
        stacked: NDArray[np.float32] = torch.stack(self.steps, dim=1).clamp(max=0.0).float().cpu().numpy()
        return stacked

    def p_right(self) -> NDArray[np.float32] | None:
        """Return P(RIGHT) / (P(RIGHT) + P(WRONG)) at the first token and temperature 1, shape (B,)."""
        if self.verdict_logits is None:
            return None
        right, wrong = self.verdict_logits.unbind(dim=1)
        result: NDArray[np.float32] = torch.sigmoid(right - wrong).float().cpu().numpy()
        return result


class _ScoreHook(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed by mypy
    """Runs before a token is picked. It is the only processor, so what it returns is what is sampled from."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        recorder = self.recorder
        if recorder.verdict_logits is None and recorder.verdict_ids is not None:
            recorder.verdict_logits = scores[:, list(recorder.verdict_ids)]
        # Temperature 0 is greedy: the arg max needs no scaling, and the contract asks for temperature 1.
        if recorder.temperature not in (0.0, 1.0):
            scores = scores / recorder.temperature
        recorder.current = scores
        return scores


class _TokenHook(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed by mypy
    """Runs after a token was picked, with it in the last column. Never stops anything."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        current = self.recorder.current
        assert current is not None
        picked = current.gather(1, input_ids[:, -1:]).squeeze(1)
        self.recorder.steps.append(picked - current.logsumexp(dim=1))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _read(base: PreTrainedModel, ids: Tensor, mask: Tensor, rows: Tensor) -> DynamicCache | None:
    """Read each different prompt once, all but its last token, and copy the result to the rows that share it.

    ``generate`` itself would read the K equal prompts of a group K times.

    Args:
        base: the model.
        ids: shape (U, P).
        mask: shape (U, P).
        rows: shape (B,), which prompt each row of the batch has.

    Returns:
        Keys and values of B rows and P - 1 tokens; None when there is only one token to read.
    """
    if ids.shape[1] < 2:
        return None
    cache = DynamicCache(config=base.config.get_text_config())
    # As in generate: positions count from the first token that is not padding.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    base.base_model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=positions[:, :-1],
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_select_indices(rows)
    return cache


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and gradient checkpointing off, then restore every module's own flag."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _plain_settings(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[GenerationConfig]:
    """Hide the model folder's own generation defaults.

    ``generate`` fills every value that the given settings leave at None from ``model.generation_config`` (repetition
    penalty, banned words, …), so passing fresh settings is not enough.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield settings
    finally:
        model.generation_config = own


def _leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the begin-of-text id if the tokenizer itself puts one before a text, else nothing.

    Not ``add_special_tokens=True``: some tokenizers then also close the prompt with end-of-text.
    """
    ids: list[int] = tokenizer("")["input_ids"]
    return ids[:1] if tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] else []


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every id that ends a text: the tokenizer's and those the model declares (end of turn)."""
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None})


def _verdict_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int] | None:
    """Return the first ids of RIGHT and WRONG as they are written at the start of a completion.

    Read after a line break, where a completion starts: some tokenizers write a word differently at the very start of a
    text. None when both start with the same id (then the first token does not tell them apart).
    """
    stem: list[int] = tokenizer("0\n", add_special_tokens=False)["input_ids"]
    first = []
    for verdict in (Verdict.RIGHT, Verdict.WRONG):
        ids: list[int] = tokenizer(f"0\n{verdict.value}", add_special_tokens=False)["input_ids"]
        if ids[: len(stem)] != stem or len(ids) == len(stem):  # the line break merged with the word
            ids, start = tokenizer(verdict.value, add_special_tokens=False)["input_ids"], 0
        else:
            start = len(stem)
        first.append(ids[start])
    right, wrong = first
    return None if right == wrong else (right, wrong)
