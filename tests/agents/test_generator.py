"""The generators and the policies they write with: exact ids and log-probabilities, nothing leaking in or out."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tracer_agents.config import GspoConfig
from tracer_agents.errors import CheckpointError, ContextError, GeneratorError, ModelFolderError
from tracer_agents.generators.policies import (
    active_policy,
    add_policies,
    folded_policy,
    load_base_model,
    load_policies,
    lora_config,
    policy_names,
    policy_parameters,
    save_policies,
)
from tracer_agents.generators.scripted import ScriptedGenerator
from tracer_agents.generators.transformers import TransformersGenerator
from tracer_agents.interfaces import Generator, Request
from tracer_env import Prompt, Role
from tracer_env.errors import ConfigError, UnknownNameError
from tracer_env.prompts import Section

pytestmark = pytest.mark.usefixtures("one_thread")

PAD, EOS, UNK, BOS, RIGHT, WRONG = range(6)
VOCABULARY = ["<pad>", "<eos>", "<unk>", "<bos>", "RIGHT", "WRONG", "<user>", "<assistant>"]
VOCABULARY += [f"w{i}" for i in range(64 - len(VOCABULARY))]  # more than the 50 of the default top-k
NUM_IDS = len(VOCABULARY)
TEMPLATE = (
    "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)


def word_tokenizer(*, chat=False, bos=False, close=False):
    """One token per word. ``bos``: puts begin-of-text before every text; ``close``: also ends it with end-of-text."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        form = "<bos> $A <eos>" if close else "<bos> $A"
        words.post_processor = processors.TemplateProcessing(
            single=form, special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        bos_token="<bos>" if bos else None,
        additional_special_tokens=["<user>", "<assistant>"],
    )
    if chat:
        tokenizer.chat_template = ("<bos> " if bos else "") + TEMPLATE
    return tokenizer


def tiny_model(kind="qwen2", *, seed=0, rows=NUM_IDS, context=64):
    """A random model of about 20,000 weights, with logits spread enough for different texts to differ."""
    shape = {
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    config, model = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(config(**shape)).eval().requires_grad_(False)


def two_policies(model=None, *, seed=0, trained=True):
    """A model with two adapters; ``trained`` ones differ from the base model."""
    model = add_policies(
        model or tiny_model(),
        ["proposer_0", "reviewer_0"],
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
        seed=seed,
    )
    if trained:
        with torch.no_grad():
            for i, name in enumerate(policy_names(model)):
                draw = torch.Generator().manual_seed(100 + i)
                for key, weight in policy_parameters(model, name).items():
                    if "lora_B" in key:
                        weight.copy_(0.2 * torch.randn(weight.shape, generator=draw))
    return model


def words(n, seed):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(56)}" for _ in range(n))


def ask(prompt, policy="proposer_0", role=Role.PROPOSER, temperature=1.0):
    return Request(prompt=prompt, policy=policy, role=role, temperature=temperature)


def mixed_requests(temperature):
    """Different lengths, both policies, repeated prompts, out of order."""
    requests = []
    for i, length in enumerate((3, 17, 1, 9, 9, 25)):
        role, policy = ((Role.PROPOSER, "proposer_0"), (Role.REVIEWER, "reviewer_0"))[i % 2]
        requests += [ask(words(length, i), policy, role, temperature)] * (1 + i % 3)
    random.Random(0).shuffle(requests)
    return requests


def teacher_forced(model, candidate, policy):
    """Logits of one unpadded pass over prompt and text, shape (L, V)."""
    ids = torch.tensor(np.concatenate([candidate.prompt_ids, candidate.token_ids]))[None]
    with active_policy(model, policy) as base, torch.no_grad():
        return base(input_ids=ids).logits[0, len(candidate.prompt_ids) - 1 : -1]


def same(a, b):
    return (
        a.text == b.text
        and np.array_equal(a.token_ids, b.token_ids)
        and np.array_equal(a.prompt_ids, b.prompt_ids)
        and np.allclose(a.logprobs, b.logprobs, atol=1e-4)
        and a.truncated == b.truncated
    )


# What is written.


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_ids_and_logprobs_are_those_of_the_sampling_distribution(kind, chat, temperature):
    model, tokenizer = two_policies(tiny_model(kind)), word_tokenizer(chat=chat)
    generator = TransformersGenerator(model, tokenizer, max_new_tokens=8, batch_size=5, seed=1)
    assert isinstance(generator, Generator)
    requests = mixed_requests(temperature)
    candidates = generator.generate(requests)
    assert len(candidates) == len(requests)
    ended = 0
    for request, candidate in zip(requests, candidates, strict=True):
        expected_prompt = f"<user> {request.prompt} <assistant>" if chat else request.prompt
        assert tokenizer.decode(candidate.prompt_ids) == expected_prompt
        logits = teacher_forced(model, candidate, request.policy)
        scores = (logits / (temperature or 1.0)).log_softmax(dim=-1)
        chosen = scores.gather(1, torch.tensor(candidate.token_ids)[:, None])[:, 0]
        np.testing.assert_allclose(candidate.logprobs, chosen, atol=1e-4)
        assert candidate.logprobs.dtype == np.float32
        assert (candidate.logprobs <= 0).all()
        assert candidate.token_ids.dtype == candidate.prompt_ids.dtype == np.int64
        if temperature == 0:
            assert (logits.argmax(dim=-1).numpy() == candidate.token_ids).all()
        assert EOS not in candidate.token_ids[:-1]
        assert candidate.truncated == (candidate.token_ids[-1] != EOS)
        assert not candidate.truncated or len(candidate.token_ids) == 8
        ended += not candidate.truncated
        assert candidate.text == tokenizer.decode(candidate.token_ids, skip_special_tokens=True)
        if request.role is Role.REVIEWER:
            right, wrong = logits[0].softmax(dim=-1)[[RIGHT, WRONG]]
            assert candidate.p_right == pytest.approx((right / (right + wrong)).item(), abs=1e-4)
        else:
            assert candidate.p_right is None
    if temperature == 1.0:
        assert ended  # or the checks of end-of-text above looked at nothing


def test_greedy_does_not_depend_on_neighbours():
    model = two_policies()
    alone = TransformersGenerator(model, word_tokenizer(), max_new_tokens=10, batch_size=1)
    together = TransformersGenerator(model, word_tokenizer(), max_new_tokens=10, batch_size=64)
    requests = mixed_requests(0.0)
    one_by_one = [alone.generate([request])[0] for request in requests]
    assert all(map(same, one_by_one, together.generate(requests)))
    assert len({c.text for c in one_by_one}) > 3


def test_samples_follow_the_model():
    model, tokenizer = tiny_model(), word_tokenizer()
    generator = TransformersGenerator(model, tokenizer, max_new_tokens=1, batch_size=4000)
    candidates = generator.generate([ask("w1 w2 w3", temperature=2.0)] * 4000)
    counts = np.bincount([c.token_ids[0] for c in candidates], minlength=len(VOCABULARY)) / 4000
    expected = (teacher_forced(model, candidates[0], "any")[0] / 2.0).softmax(dim=-1).numpy()
    assert np.abs(counts - expected).max() < 0.03
    # Nothing is cut off: at a very high temperature every id comes up.
    flat = generator.generate([ask("w1 w2 w3", temperature=1e3)] * 4000)
    assert {int(c.token_ids[0]) for c in flat} == set(range(NUM_IDS))


def test_equal_prompts_are_read_once():
    model = tiny_model()
    rows = []
    model.model.embed_tokens.register_forward_hook(lambda m, args, out: rows.append(tuple(args[0].shape)))
    generator = TransformersGenerator(model, word_tokenizer(), max_new_tokens=3)
    generator.generate([ask(words(12, 0))] * 4 + [ask(words(12, 1))] * 4)
    assert rows[0] == (2, 11)
    assert rows[1] == (8, 1)


def test_the_model_folders_generation_defaults_do_not_leak_in():
    requests = mixed_requests(1.0) + mixed_requests(0.0)
    clean = TransformersGenerator(two_policies(), word_tokenizer(), max_new_tokens=8, seed=3).generate(requests)
    model = two_policies()
    loud = GenerationConfig(
        do_sample=True, temperature=0.2, top_k=1, top_p=0.1, repetition_penalty=5.0, min_new_tokens=8,
        suppress_tokens=[EOS, 12, 13], no_repeat_ngram_size=1, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=2,
    )  # fmt: skip
    model.get_base_model().generation_config = loud
    written = TransformersGenerator(model, word_tokenizer(), max_new_tokens=8, seed=3).generate(requests)
    assert all(map(same, clean, written))
    assert model.get_base_model().generation_config is loud


def test_every_end_of_text_that_the_model_declares_ends_a_text():
    model = tiny_model()
    model.generation_config.eos_token_id = [EOS, 20, 21, 22, 23]
    candidates = TransformersGenerator(model, word_tokenizer(), max_new_tokens=20).generate([ask("w1")] * 64)
    assert {20, 21, 22, 23} & {int(c.token_ids[-1]) for c in candidates if not c.truncated}
    for candidate in candidates:
        assert not {EOS, 20, 21, 22, 23} & set(candidate.token_ids[:-1].tolist())
        assert not {VOCABULARY[i] for i in (20, 21, 22, 23)} & set(candidate.text.split())


# Randomness and side effects.


def test_reseed_repeats_and_seeds_differ():
    generator = TransformersGenerator(two_policies(), word_tokenizer(), max_new_tokens=8, seed=5)
    requests = mixed_requests(1.0)
    first, second = generator.generate(requests), generator.generate(requests)
    generator.reseed(5)
    assert all(map(same, first, generator.generate(requests)))
    assert not all(map(same, first, second))
    generator.reseed(6)
    assert not all(map(same, first, generator.generate(requests)))
    assert generator.generate([]) == []


def test_nothing_global_changes():
    model = two_policies()
    model.train()
    model.get_base_model().model.layers[0].eval()
    generator = TransformersGenerator(model, word_tokenizer(), max_new_tokens=4)

    def facts():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            [module.training for module in model.modules()],
            [parameter.requires_grad for parameter in model.parameters()],
            model.active_adapter,
        )

    before = facts()
    generator.generate([*mixed_requests(1.0), ask("w1", "base"), ask("w1", "reviewer_0", temperature=0.5)])
    assert facts() == before


def test_policies_write_differently_and_base_is_the_bare_model():
    bare = TransformersGenerator(tiny_model(), word_tokenizer(), max_new_tokens=8)
    team = TransformersGenerator(two_policies(), word_tokenizer(), max_new_tokens=8)
    fresh = TransformersGenerator(two_policies(trained=False), word_tokenizer(), max_new_tokens=8)
    prompts = [words(6, i) for i in range(8)]

    def greedy(generator, policy):
        return [c.text for c in generator.generate([ask(p, policy, temperature=0.0) for p in prompts])]

    base = greedy(bare, "anything")
    assert greedy(team, "base") == base == greedy(fresh, "proposer_0") == greedy(fresh, "reviewer_0")
    assert len({tuple(base), tuple(greedy(team, "proposer_0")), tuple(greedy(team, "reviewer_0"))}) == 3
    with pytest.raises(UnknownNameError, match=r"proposer_1.*proposer_0"):
        greedy(team, "proposer_1")


# Folding an adapter into the weights while sampling.


def facts_of(model):
    """Every parameter by name: the very object and a copy of its bits."""
    return {name: (id(p), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}


def same_facts(a, b):
    return a.keys() == b.keys() and all(a[n][:2] == b[n][:2] and torch.equal(a[n][2], b[n][2]) for n in a)


def logits_of(model, context, policy):
    with context(model, policy) as base, torch.no_grad():
        return base(input_ids=torch.arange(10, 30)[None]).logits


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_folded_policies_compute_the_same_and_leave_every_bit_in_place(kind):
    model = two_policies(tiny_model(kind))
    before = facts_of(model)
    base = logits_of(model, active_policy, "base")
    for policy in ("proposer_0", "reviewer_0"):
        apart = logits_of(model, active_policy, policy)
        assert (apart - base).abs().max() > 0.1
        torch.testing.assert_close(logits_of(model, folded_policy, policy), apart, atol=1e-4, rtol=0)
        assert same_facts(facts_of(model), before)
    assert torch.equal(logits_of(model, folded_policy, "base"), base)
    assert torch.equal(logits_of(model, active_policy, "base"), base)
    bare = tiny_model(kind)
    assert torch.equal(logits_of(bare, folded_policy, "any"), logits_of(bare, active_policy, "any"))
    with pytest.raises(UnknownNameError):
        logits_of(model, folded_policy, "proposer_7")


def test_a_folded_policy_really_runs_without_its_adapter_and_is_never_stale():
    model = two_policies()
    linear = model.get_base_model().model.layers[0].mlp.up_proj
    calls = []
    handle = linear.lora_A["proposer_0"].register_forward_hook(lambda *_: calls.append(1))
    first = logits_of(model, folded_policy, "proposer_0")
    assert not calls
    logits_of(model, active_policy, "proposer_0")
    assert calls
    handle.remove()
    with torch.no_grad():
        linear.lora_B["proposer_0"].weight.add_(0.1)
    second = logits_of(model, folded_policy, "proposer_0")
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(second, logits_of(model, active_policy, "proposer_0"), atol=1e-4, rtol=0)


def test_an_error_inside_gives_the_weights_back():
    model = two_policies()
    before = facts_of(model)
    with pytest.raises(RuntimeError, match="inside"), folded_policy(model, "reviewer_0"):
        raise RuntimeError("inside")
    assert same_facts(facts_of(model), before)
    assert model.active_adapter == "proposer_0"
    assert not torch.equal(logits_of(model, active_policy, "proposer_0"), logits_of(model, active_policy, "base"))


def test_half_precision_and_other_kinds_of_adapter_are_not_folded():
    half = two_policies(tiny_model().to(torch.bfloat16))
    dora = add_policies(tiny_model(), ["dora"], LoraConfig(r=4, target_modules="all-linear", use_dora=True), seed=0)
    mixed = LoraConfig(r=4, lora_alpha=8, target_modules=["up_proj", "embed_tokens"])  # not only linear layers
    mixed_model = add_policies(tiny_model(), ["mixed"], mixed, seed=0)
    with torch.no_grad():
        for weight in policy_parameters(mixed_model, "mixed").values():
            weight.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    for model, policy in ((half, "proposer_0"), (dora, "dora"), (mixed_model, "mixed")):
        weight = model.get_base_model().model.layers[0].mlp.up_proj.get_base_layer().weight
        with folded_policy(model, policy) as base:
            assert base.model.layers[0].mlp.up_proj.get_base_layer().weight is weight
        assert torch.equal(logits_of(model, folded_policy, policy), logits_of(model, active_policy, policy))


def test_large_models_are_not_folded(monkeypatch):
    model = two_policies()
    weight = model.get_base_model().model.layers[0].mlp.up_proj.get_base_layer().weight
    with folded_policy(model, "proposer_0") as base:
        assert base.model.layers[0].mlp.up_proj.get_base_layer().weight is not weight
    monkeypatch.setattr("tracer_agents.generators.policies._FOLD_LIMIT_BYTES", 1000)
    with folded_policy(model, "proposer_0") as base:
        assert base.model.layers[0].mlp.up_proj.get_base_layer().weight is weight


@pytest.mark.parametrize("target", ["v_pro", "layers"])
def test_a_target_that_is_no_layer_is_an_error(target):
    config = LoraConfig(r=4, target_modules=["q_proj", target])
    with pytest.raises(UnknownNameError, match=rf"lora_targets '{target}'.*v_proj"):
        add_policies(tiny_model(), ["p"], config, seed=0)
    assert lora_config(GspoConfig(lora_targets="q_proj, v_proj")).target_modules == {"q_proj", "v_proj"}


# Prompts.


def transcript(num_words):
    return Prompt(
        (
            Section("Question", words(5, 0), "question"),
            Section("Solution 1 by proposer_0", words(num_words, 1), "standing"),
            Section("Review 1 by reviewer_0", "WRONG\n" + words(num_words, 2), "review"),
            Section("Task for proposer_0", words(4, 3), "task"),
        )
    )


def test_long_prompts_are_shortened_and_counted():
    model, tokenizer = tiny_model(context=64), word_tokenizer()
    generator = TransformersGenerator(model, tokenizer, max_new_tokens=16)
    short, long = generator.generate([ask(transcript(4)), ask(transcript(20))])
    assert short.num_cut == 0
    assert long.num_cut == 1
    assert len(long.prompt_ids) <= 48 < len(tokenizer(transcript(20))["input_ids"])
    narrow = TransformersGenerator(model, tokenizer, max_new_tokens=16, max_context_tokens=40)
    assert narrow.generate([ask(transcript(20))])[0].num_cut == 3


@pytest.mark.parametrize(
    ("prompt", "length", "reason"),
    [
        (words(60, 0), 60, "plain str"),
        (Prompt((Section("Q", words(60, 0), "question"), Section("T", "w1", "task"))), 65, "even with all"),
    ],
)
def test_what_cannot_fit_names_both_lengths(prompt, length, reason):
    generator = TransformersGenerator(tiny_model(context=64), word_tokenizer(), max_new_tokens=16)
    with pytest.raises(ContextError, match=rf"{length} tokens, .*{reason}.*only 48"):
        generator.generate([ask("w1"), ask(prompt)])


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_one_begin_of_text_and_no_end_of_text_in_the_prompt(chat, close):
    generator = TransformersGenerator(tiny_model(), word_tokenizer(chat=chat, bos=True, close=close), max_new_tokens=2)
    ids = generator.generate([ask("w1 w2")])[0].prompt_ids.tolist()
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert EOS not in ids


def test_chat_options_reach_the_template():
    tokenizer = word_tokenizer(chat=True)
    tokenizer.chat_template = TEMPLATE + "{% if think is false %}w9{% endif %}"
    generator = TransformersGenerator(tiny_model(), tokenizer, max_new_tokens=2, chat_options={"think": False})
    assert tokenizer.decode(generator.generate([ask("w1")])[0].prompt_ids) == "<user> w1 <assistant> w9"


def test_p_right_is_none_when_the_first_token_does_not_tell():
    words_only = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "w1": 3}, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_only, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    generator = TransformersGenerator(tiny_model(), tokenizer, max_new_tokens=2)
    assert generator.generate([ask("w1", role=Role.REVIEWER)])[0].p_right is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 64},
        {"max_new_tokens": 4, "batch_size": 0},
        {"max_new_tokens": 4, "max_context_tokens": 65},
    ],
)
def test_settings_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError):
        TransformersGenerator(tiny_model(context=64), word_tokenizer(), **arguments)


def test_negative_temperature_and_empty_prompt_are_refused():
    generator = TransformersGenerator(tiny_model(), word_tokenizer(), max_new_tokens=2)
    for request in (ask("w1", temperature=-1.0), ask("w1", temperature=float("nan")), ask("")):
        with pytest.raises(ConfigError):
            generator.generate([request])


# Policies on disk.


def weights_of(model, policy):
    return {key: value.detach().clone() for key, value in policy_parameters(model, policy).items()}


def bit_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_fresh_adapters_depend_on_their_seed_alone():
    torch.manual_seed(1)
    one = two_policies(seed=7, trained=False)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = two_policies(seed=7, trained=False)
    assert torch.equal(torch.get_rng_state(), state)
    other = two_policies(seed=8, trained=False)
    for name in policy_names(one):
        assert bit_equal(weights_of(one, name), weights_of(two, name))
        assert not bit_equal(weights_of(one, name), weights_of(other, name))
    assert not bit_equal(weights_of(one, "proposer_0"), weights_of(one, "reviewer_0"))


def test_adapters_are_restored_bit_by_bit(tmp_path):
    model = two_policies()
    save_policies(model, tmp_path)
    assert sorted(p.name for p in (tmp_path / "proposer_0").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "proposer_0" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])  # a set has another order in every process
    added = load_policies(tiny_model(), tmp_path)
    overwritten = load_policies(two_policies(seed=9, trained=False), tmp_path)
    for name in policy_names(model):
        assert bit_equal(weights_of(model, name), weights_of(added, name))
        assert bit_equal(weights_of(model, name), weights_of(overwritten, name))
    again = tmp_path / "again"
    save_policies(added, again)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (again / "reviewer_0" / name).read_bytes() == (tmp_path / "reviewer_0" / name).read_bytes()


def test_peft_reads_what_is_written(tmp_path):
    model = two_policies()
    save_policies(model, tmp_path, ["reviewer_0"])
    theirs = PeftModel.from_pretrained(tiny_model(), tmp_path / "reviewer_0").eval()
    ids = torch.tensor([[10, 11, 12]])
    with active_policy(model, "reviewer_0") as base, torch.no_grad():
        assert torch.equal(base(input_ids=ids).logits, theirs(input_ids=ids).logits)


def test_a_policys_name_may_be_the_start_of_anothers():
    names = ["p_1", "p_10"]
    model = add_policies(tiny_model(), names, LoraConfig(r=2, target_modules="all-linear"), seed=0)
    assert not {id(p) for p in policy_parameters(model, "p_1").values()} & {
        id(p) for p in policy_parameters(model, "p_10").values()
    }


@pytest.mark.parametrize("names", [[], ["a", "a"], ["base"], ["a.b"], ["a/b"], [""]])
def test_names_that_cannot_be_folders_are_refused(names):
    with pytest.raises(ConfigError):
        add_policies(tiny_model(), names, LoraConfig(r=2, target_modules="all-linear"), seed=0)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no adapter"):
        load_policies(tiny_model(), tmp_path)
    save_policies(two_policies(), tmp_path)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_policies(tiny_model(), tmp_path, ["proposer_9"])
    other_rank = add_policies(tiny_model(), ["proposer_0"], LoraConfig(r=2, target_modules="all-linear"), seed=0)
    with pytest.raises(CheckpointError, match="another rank"):
        load_policies(other_rank, tmp_path, ["proposer_0"])
    other_layers = add_policies(tiny_model(), ["proposer_0"], LoraConfig(r=4, target_modules=["q_proj"]), seed=0)
    with pytest.raises(CheckpointError, match="unexpected"):
        load_policies(other_layers, tmp_path, ["proposer_0"])
    file = tmp_path / "proposer_0" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot read"):
        load_policies(tiny_model(), tmp_path)


# Base models on disk.


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model(rows=NUM_IDS + 24)
    model.generation_config = GenerationConfig(eos_token_id=[EOS], temperature=0.3, do_sample=True)
    model.save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return folder


def test_load_base_model(model_folder):
    model, tokenizer = load_base_model(model_folder, device="cpu")
    assert model.dtype == torch.float32
    assert tokenizer("w1 RIGHT\nw2")["input_ids"] == word_tokenizer()("w1 RIGHT\nw2")["input_ids"]
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == EOS
    assert tokenizer.padding_side == "left"
    # Rows beyond the tokenizer's ids are gone, the others are unchanged.
    rows = model.get_output_embeddings().weight
    assert torch.equal(rows, tiny_model(rows=NUM_IDS + 24).get_output_embeddings().weight[: len(VOCABULARY)])
    candidates = TransformersGenerator(model, tokenizer, max_new_tokens=20).generate([ask("w1 w2")] * 32)
    assert max(int(c.token_ids.max()) for c in candidates) < len(VOCABULARY)
    assert any(not c.truncated for c in candidates)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json missing"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), "safetensors missing.*Pickled"),
        (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer.json missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"{}"), "cannot load"),
    ],
)
def test_a_folder_that_is_not_a_model_says_what_is_missing(model_folder, tmp_path, damage, message):
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    damage(folder)
    with pytest.raises(ModelFolderError, match=message):
        load_base_model(folder, device="cpu")


def test_paths_and_adapters_given_as_models(tmp_path):
    with pytest.raises(ModelFolderError, match="no folder"):
        load_base_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFolderError, match="is a file"):
        load_base_model(tmp_path / "file")
    save_policies(two_policies(), tmp_path)
    with pytest.raises(ModelFolderError, match="It is an adapter"):
        load_base_model(tmp_path / "proposer_0")


def test_remote_code_never_runs(model_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit")
    with pytest.raises(ModelFolderError, match="remote code"):
        load_base_model(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_of_another_model_is_refused(model_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    tiny_model(rows=30).save_pretrained(folder)
    with pytest.raises(ModelFolderError, match="do not belong together"):
        load_base_model(folder, device="cpu")


# Scripts.


def test_scripts_of_every_kind():
    by_policy = ScriptedGenerator({"proposer_0": "#### 4", "reviewer": "WRONG no"})
    assert isinstance(by_policy, Generator)
    review = ask("x y z", "reviewer_3", Role.REVIEWER)
    solution, verdict = by_policy.generate([ask("2 + 2"), review])
    assert (solution.text, solution.p_right) == ("#### 4", None)
    assert (verdict.text, verdict.p_right) == ("WRONG no", 0.1)
    assert len(verdict.prompt_ids) == 3
    assert len(verdict.token_ids) == len(verdict.logprobs) == 3
    assert verdict.token_ids[-1] == 0
    assert (verdict.logprobs < 0).all()
    assert verdict.utterance.tokens_out == 3
    assert [c.text for c in ScriptedGenerator(["a", "b"]).generate([review] * 3)] == ["a", "b", "a"]
    with pytest.raises(GeneratorError, match="reviewer_3"):
        ScriptedGenerator({"proposer": ""}).generate([review])
    with pytest.raises(GeneratorError, match="empty"):
        ScriptedGenerator([]).generate([review])


def test_scripted_texts_repeat_after_reseed():
    generator = ScriptedGenerator(lambda request, rng: f"{request.policy} {rng.integers(1000)}", seed=1)
    requests = [ask("q")] * 5
    first = generator.generate(requests)
    assert len({c.text for c in first}) > 1
    assert not all(map(same, first, generator.generate(requests)))
    generator.reseed(1)
    assert all(map(same, first, generator.generate(requests)))
