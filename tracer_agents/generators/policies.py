"""One base model, one LoRA adapter per policy: loading, adding, activating, saving and restoring them.

Owns what a policy *is* on disk and in memory; how it samples is in ``transformers.py``, how it learns in
``trainers/gspo.py``. Nothing here unpickles or runs a model repository's own code.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tracer_agents.config import GspoConfig
from tracer_agents.errors import CheckpointError, ModelFolderError
from tracer_env.errors import ConfigError, UnknownNameError

__all__ = [
    "BASE_POLICY",
    "active_policy",
    "add_policies",
    "base_of",
    "folded_policy",
    "load_base_model",
    "load_policies",
    "lora_config",
    "policy_names",
    "policy_parameters",
    "save_policies",
    "torch_seeded",
]

BASE_POLICY = "base"
"""The policy name of the bare model: every adapter off."""

_FOLD_LIMIT_BYTES = 256 * 2**20

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Policy names become module names (no dots) and folder names.
_POLICY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block under its own torch randomness and leave the global state as it was.

    Args:
        seed: in [0, 2**63).
        device: where the block draws; its kind's generators are restored as well as the CPU's.
    """
    kind = device.type
    devices = [] if kind == "cpu" else list(range(torch.get_device_module(device).device_count()))
    with torch.random.fork_rng(devices=devices, device_type="cuda" if kind == "cpu" else kind):
        torch.manual_seed(seed)
        yield


def load_base_model(
    folder: str | Path, *, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, frozen and in evaluation mode.

    Rows of the embedding beyond the tokenizer's last id are removed: a model padded to a round vocabulary could
    otherwise sample ids that mean nothing, and the sampler and the trainer would each have to mask them.

    Args:
        folder: a local folder in the Hugging Face layout (``config.json``, ``*.safetensors``, tokenizer files), or a
            hub id such as ``Qwen/Qwen2.5-0.5B-Instruct``. An existing path always wins.
        device: where to put it; default is the accelerator when there is one, else the CPU.

    Returns:
        The model, float32 on the CPU and bfloat16 elsewhere, and the tokenizer, which pads on the left and has a pad
        token (the end-of-text token where it had none).

    Raises:
        ModelFolderError: if the folder does not hold such a model, or needs remote code or pickled weights.
    """
    path = Path(folder)
    if path.exists():
        _check_model_folder(path)
    elif not _HUB_ID.fullmatch(str(folder)):
        raise ModelFolderError(
            f"there is no folder {str(folder)!r}, and it is not a hub id (owner/name) either; give the path of a "
            "folder with config.json, *.safetensors and tokenizer files"
        )
    target = torch.device(device) if device is not None else _default_device()
    dtype = torch.float32 if target.type == "cpu" else torch.bfloat16
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = _load_tokenizer(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelFolderError(
            f"cannot load a causal language model from {str(folder)!r}: {error} (remote code is never run and pickled "
            "weights are never read)"
        ) from error
    _align_special_tokens(model, tokenizer, str(folder))
    _trim_vocabulary(model, tokenizer, str(folder))
    return model.to(target).eval().requires_grad_(False), tokenizer


def _load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer as its ``tokenizer.json`` describes it.

    ``AutoTokenizer`` of transformers 5 goes by the model's type: beside a Qwen2 model it takes the vocabulary of that
    file but Qwen's own way of splitting text, without a word, so a tokenizer of one's own comes out wrong.
    """
    if (Path(folder) / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _default_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def _check_model_folder(path: Path) -> None:
    if not path.is_dir():
        raise ModelFolderError(f"{str(path)!r} is a file; give the folder that holds config.json and *.safetensors")
    found = sorted(p.name for p in path.iterdir())
    missing = []
    if "config.json" not in found:
        missing.append("config.json")
    if not any(name.endswith(".safetensors") for name in found):
        missing.append("*.safetensors")
    if not any(name in found for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    if missing:
        hint = ""
        if _CONFIG in found:
            hint = " It is an adapter: load its base model first, then load_policies on the folder above it."
        elif any(name.endswith((".bin", ".pt", ".pth")) for name in found):
            hint = " Pickled weights are never read: convert them with save_pretrained(..., safe_serialization=True)."
        shown = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
        raise ModelFolderError(
            f"{str(path)!r} is not a model folder: {' and '.join(missing)} missing, found {shown or 'nothing'}.{hint}"
        )


def _align_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    """Give the tokenizer a pad token and make model and tokenizer agree, as training code assumes."""
    if tokenizer.eos_token_id is None:
        raise ModelFolderError(f"the tokenizer in {folder!r} has no end-of-text token, so no text could ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _trim_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str) -> None:
    num_ids = max(tokenizer.get_vocab().values()) + 1
    num_rows = model.get_input_embeddings().weight.shape[0]
    if num_rows < num_ids:
        raise ModelFolderError(
            f"the tokenizer in {folder!r} has ids up to {num_ids - 1}, but the model only embeds {num_rows}; they do "
            "not belong together"
        )
    if num_rows > num_ids:
        model.resize_token_embeddings(num_ids)


def lora_config(config: GspoConfig) -> LoraConfig:
    """Return the adapter settings for ``add_policies``. Dropout is 0: the ratio compares like with like."""
    names = [name.strip() for name in config.lora_targets.split(",")]
    targets = names[0] if names == ["all-linear"] else names
    return LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=0.0, target_modules=targets)


def add_policies(model: PreTrainedModel, names: Sequence[str], lora_config: LoraConfig, *, seed: int) -> PeftModel:
    """Add one freshly drawn LoRA adapter per policy to one base model.

    Args:
        model: the base model; it is changed in place (its linear layers are wrapped) and stays frozen.
        names: the policies, unique; letters, digits, ``_`` and ``-``, but not ``base``.
        lora_config: of every adapter; it is copied. Its matrix B starts at zero, so that an untrained policy is
            exactly the base model.
        seed: the weights of the i-th policy depend on ``seed`` and i alone; the global torch state is untouched.

    Returns:
        The model with its adapters; the first policy is active.

    Raises:
        ConfigError: if a name is not allowed, the model has adapters already, or a target is none of its layers.
    """
    _check_names(names)
    if isinstance(model, PeftModel):
        raise ConfigError(f"the model already has the policies {', '.join(policy_names(model))}; pass a bare model")
    _check_targets(model, lora_config)
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(len(names), np.uint32)]
    wrapped: PeftModel | None = None
    for name, own_seed in zip(names, seeds, strict=True):
        # Seeded before the draw: get_peft_model draws A at once (reference flaw C18).
        with torch_seeded(own_seed, model.device):
            wrapped = _add_adapter(wrapped or model, name, lora_config)
    assert wrapped is not None
    wrapped.set_adapter(names[0])
    return wrapped.eval()


def _add_adapter(model: PreTrainedModel | PeftModel, name: str, lora_config: LoraConfig) -> PeftModel:
    config = copy.deepcopy(lora_config)
    config.task_type = "CAUSAL_LM"
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
        return model
    wrapped = get_peft_model(model, config, adapter_name=name)
    assert isinstance(wrapped, PeftModel)
    return wrapped


def _check_names(names: Sequence[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"policies must be unique and at least one, got {list(names)}")
    for name in names:
        if name == BASE_POLICY or not _POLICY_NAME.fullmatch(name):
            raise ConfigError(
                f"policy name {name!r} is not allowed: it must start with a letter, hold only letters, digits, "
                f"'_' and '-', and not be {BASE_POLICY!r}"
            )


def _check_targets(model: PreTrainedModel, lora_config: LoraConfig) -> None:
    """Every target must be the name of a layer: PEFT itself only minds when none of them is."""
    targets = lora_config.target_modules
    if targets is None or isinstance(targets, str):
        return  # PEFT's own default, its name for all linear layers, or a pattern of the caller's
    known = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 2
    }
    for target in sorted(targets):
        if target.rpartition(".")[2] not in known:
            raise UnknownNameError("layer in lora_targets", target, ("all-linear", *known))


def policy_names(model: PreTrainedModel | PeftModel) -> tuple[str, ...]:
    """Return the names of the model's adapters, in the order they were added; none for a bare model."""
    return tuple(model.peft_config) if isinstance(model, PeftModel) else ()


def base_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model inside, whose layers apply whichever adapter is active."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def policy_parameters(model: PeftModel, policy: str) -> dict[str, torch.nn.Parameter]:
    """Return the LoRA weights of one policy by the names PEFT gives them in files (the policy's name left out).

    Raises:
        UnknownNameError: if the model has no such policy.
    """
    if policy not in policy_names(model):
        raise UnknownNameError("policy", policy, policy_names(model))
    # Whole name parts are compared: PEFT's own state-dict filter takes proposer_1 for a prefix of proposer_10.
    return {
        ".".join(part for part in name.split(".") if part != policy): parameter
        for name, parameter in model.named_parameters()
        if policy in name.split(".")
    }


@contextmanager
def active_policy(model: PreTrainedModel | PeftModel, policy: str) -> Iterator[PreTrainedModel]:
    """Run a block with one policy active, and restore what was active before.

    Args:
        model: with adapters, or a bare model, which writes for every policy.
        policy: an adapter's name, or ``base``.

    Yields:
        The model inside (``base_of``), which then computes as that policy.

    Raises:
        UnknownNameError: if the model has adapters, but not this one.
    """
    if not isinstance(model, PeftModel):
        yield model
        return
    if policy != BASE_POLICY and policy not in model.peft_config:
        raise UnknownNameError("policy", policy, (*model.peft_config, BASE_POLICY))
    before = model.active_adapter
    switch = policy not in (BASE_POLICY, before)
    if switch:
        model.set_adapter(policy)
    try:
        with model.disable_adapter() if policy == BASE_POLICY else nullcontext():
            yield base_of(model)
    finally:
        if switch:
            model.set_adapter(before)


@contextmanager
def folded_policy(model: PreTrainedModel | PeftModel, policy: str) -> Iterator[PreTrainedModel]:
    """Like ``active_policy``, for sampling: each adapted layer computes with one sum W + BA, made for the block.

    An adapter of its own costs two more products and two passes over the output per layer: half of the time of a small
    model on a CPU. Nothing can drift, since W is never written to: the layers are handed the sum and given W back by
    reference. The sums need memory, at most ``_FOLD_LIMIT_BYTES``. For larger models, where an adapter costs little
    beside its layer, in bfloat16, where the sum itself would round the adapter away, and when any part of the adapter
    is not plain LoRA on a linear layer, this *is* ``active_policy``.

    Args:
        model: with adapters, or a bare model.
        policy: an adapter's name, or ``base``.

    Yields:
        The model inside, which computes as that policy.

    Raises:
        UnknownNameError: if the model has adapters, but not this one.
    """
    with active_policy(model, policy) as base:
        layers = [m for m in base.modules() if isinstance(m, LoraLayer) and _holds(m, policy)]
        if (
            not layers
            or not all(_can_fold(layer, policy) for layer in layers)
            or _num_bytes(layers) > _FOLD_LIMIT_BYTES
        ):
            yield base
            return
        linears = [layer.get_base_layer() for layer in layers]
        originals = [linear.weight for linear in linears]
        with torch.no_grad():
            sums = [w + layer.get_delta_weight(policy) for layer, w in zip(layers, originals, strict=True)]
        with model.disable_adapter():
            try:
                for linear, weight in zip(linears, sums, strict=True):
                    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
                yield base
            finally:
                for linear, original in zip(linears, originals, strict=True):
                    linear.weight = original


def _holds(layer: LoraLayer, policy: str) -> bool:
    """Whether any part of a policy is in a layer: that of an embedding has a place of its own."""
    return any(policy in getattr(layer, name) for name in layer.adapter_layer_names)


def _num_bytes(layers: Sequence[LoraLayer]) -> int:
    return sum(layer.get_base_layer().weight.nbytes for layer in layers)


def _can_fold(layer: LoraLayer, policy: str) -> bool:
    plain = type(layer) is LoraLinear and policy not in layer.lora_variant and not layer.lora_bias[policy]
    return plain and layer.get_base_layer().weight.dtype == torch.float32


def save_policies(model: PeftModel, folder: str | Path, names: Sequence[str] | None = None) -> None:
    """Write adapters as ``<folder>/<policy>/adapter_model.safetensors`` and ``adapter_config.json``.

    The layout is PEFT's, so PEFT and vLLM load it. Equal weights give equal bytes.

    Args:
        model: the model with its adapters.
        folder: created where missing; files of the same name are replaced.
        names: which policies; default all.
    """
    for name in policy_names(model) if names is None else names:
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        weights = {key: value.detach().cpu().contiguous() for key, value in policy_parameters(model, name).items()}
        save_file(weights, target / _WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(_config_as_json(model.peft_config[name]), indent=2, sort_keys=True, default=str)
        (target / _CONFIG).write_text(text + "\n", encoding="utf-8")


def _config_as_json(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        key: sorted(value) if isinstance(value, set | frozenset) else value for key, value in config.to_dict().items()
    }
    values["inference_mode"] = True
    # The base model's folder is this machine's business; a hub id is not a path and stays.
    base = values.get("base_model_name_or_path")
    if base and Path(base).exists():
        values["base_model_name_or_path"] = Path(base).name
    return values


def load_policies(
    model: PreTrainedModel | PeftModel, folder: str | Path, names: Sequence[str] | None = None
) -> PeftModel:
    """Restore adapters written by ``save_policies``, bit by bit; an adapter that the model lacks is added.

    Args:
        model: the base model, bare or with adapters; changed in place.
        folder: as given to ``save_policies``.
        names: which policies; default every subfolder that holds an adapter, sorted by name.

    Returns:
        The model with its adapters; the first policy is active.

    Raises:
        CheckpointError: if a file is missing or damaged, or its weights do not fit the model.
    """
    root = Path(folder)
    names = sorted(p.parent.name for p in root.glob(f"*/{_WEIGHTS}")) if names is None else names
    if not names:
        raise CheckpointError(f"no adapter in {str(root)!r}: expected <policy>/{_WEIGHTS}")
    _check_names(names)
    for name in names:
        model = _load_adapter(model, root / name, name)
    assert isinstance(model, PeftModel)
    model.set_adapter(policy_names(model)[0])
    return model.eval()


def _load_adapter(model: PreTrainedModel | PeftModel, folder: Path, name: str) -> PeftModel:
    try:
        weights = load_file(folder / _WEIGHTS)
        config = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the adapter in {str(folder)!r}: {error}") from error
    assert isinstance(config, LoraConfig)
    if name not in policy_names(model):
        config.inference_mode = False
        with torch_seeded(0, model.device):  # drawn only to be overwritten below
            model = _add_adapter(model, name, config)
    assert isinstance(model, PeftModel)
    parameters = policy_parameters(model, name)
    check_same_tensors(folder / _WEIGHTS, weights, parameters)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(weights[key])
    return model


def check_same_tensors(
    file: Path, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor] | dict[str, torch.nn.Parameter]
) -> None:
    """Raise ``CheckpointError`` naming the first difference in names, shapes or dtypes between file and model."""
    if found.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        raise CheckpointError(
            f"{str(file)!r} does not fit the model: {len(missing)} tensors missing (first: {missing[:1]}), "
            f"{len(extra)} unexpected (first: {extra[:1]}); it was written for another model or another LoRA target"
        )
    for key, tensor in expected.items():
        if found[key].shape != tensor.shape or found[key].dtype != tensor.dtype:
            raise CheckpointError(
                f"{str(file)!r} does not fit the model: {key} is {found[key].dtype} {tuple(found[key].shape)}, the "
                f"model has {tensor.dtype} {tuple(tensor.shape)}; it was written with another rank or model"
            )
