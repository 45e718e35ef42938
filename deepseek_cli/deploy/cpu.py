"""The cpu target: an ONNX bundle that runs in our own loop and, unchanged, in onnxruntime-genai."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_cli import __version__
from deepseek_cli.deploy.kv_scales import kv_scales
from deepseek_cli.deploy.readback import left_out, read_back
from deepseek_cli.deploy.serving import write_server_files
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.deploy.target import Target, require
from deepseek_cli.errors import UsageError
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.drafting import DRAFT, HIDDEN, STATES
from deepseek_cli.ops.onnx_draft import emit_draft
from deepseek_cli.ops.onnx_ops import emit
from deepseek_cli.quantize.folder import clean_config
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.onnx_session import ERRORS_ONLY, GRAPH, cache_kinds, load, open_folder, session_options
from deepseek_cli.runtime.tokenizer import open_tokenizer

SERVER = ("cpu/compose.yaml", "cpu/deepseek-serve.service")
NAMED = 3  # tensors in one warning
GENAI_TYPES = ("llama", "qwen2", "qwen3")  # that onnxruntime-genai knows by name; "decoder" serves for all others
GENAI_CONTEXT = 4096  # onnxruntime-genai allocates its KV cache for max_length at once
README = """# {name}

An ONNX graph for ONNX Runtime. `deepseek.json` says what it was made from, and how far it was verified.

    deepseek run . "Hello"      # pip install deepseek-cli
    python check.py             # the files are as they were written
"""
GENAI = """
onnxruntime-genai reads the folder as it is:

    import onnxruntime_genai as og
    model = og.Model("."); tokenizer = og.Tokenizer(model); generator = og.Generator(model, og.GeneratorParams(model))
    generator.append_tokens(tokenizer.encode("Hello")); generator.generate_next_token()
"""


def emit_bundle(
    handle: ModelHandle, spec: DeploySpec, folder: Path, context: int, threads: int | None = None, reporter: Reporter = SILENT
) -> dict[str, Any]:
    """Write graph, weights, tokenizer and configs into `folder`, for up to `context` tokens.

    Raises ModelUnsupported for a shape that ONNX Runtime's operators cannot hold, UsageError for options that do not concern
    the model.
    """
    latent, drafting = getattr(handle.config, "latent", None), handle.draft_weights
    options = {"gives_hidden": bool(drafting), **_caches(handle, spec, reporter)}
    fallbacks = emit(handle.architecture, handle.config, handle.weights, folder / GRAPH, context, reporter, **options)
    if drafting:
        fallbacks += emit_draft(
            *(handle.architecture, handle.config, {**handle.weights, **drafting}, folder / DRAFT, folder / GRAPH, context),
            rounds_tokens=spec.rounds_tokens,
        )
    fallbacks = list(dict.fromkeys(fallbacks))
    report(fallbacks, reporter)
    open_tokenizer(handle.root).save(folder)
    write_json(folder / "config.json", clean_config(handle.raw_config))
    readers, readme = ["deepseek", "onnxruntime"], README.format(name=handle.name)
    if spec.latent_cache == "gqa" or (not latent and spec.kv == "fp32"):
        write_json(folder / "genai_config.json", genai_config(handle, context))
        readers.append("onnxruntime-genai")
        readme += GENAI
    (folder / "README.md").write_text(readme, encoding="utf-8")
    if spec.server_files:
        write_server_files(handle, folder, SERVER, version=__version__)
    return {"readers": readers, "dense_fallbacks": [name for name, _ in fallbacks]}


def _caches(handle: ModelHandle, spec: DeploySpec, reporter: Reporter) -> dict[str, Any]:
    """The interpreter's options."""
    latent = getattr(handle.config, "latent", None)
    if not latent and spec.latent_cache != "plain":
        raise UsageError(
            "{name} has no latent attention, whose cache latent_cache describes.", hint="Leave it out.", name=handle.name
        )
    if latent and spec.kv == "int8":
        raise UsageError("{name} caches latents, which are not rounded to int8.", hint="Use --kv fp16.", name=handle.name)
    scales = kv_scales(handle, reporter) if spec.kv == "int8" else ()
    return {"kv": spec.kv, "latent_cache": spec.latent_cache, "kv_scales": scales, "rounds_tokens": spec.rounds_tokens}


def report(fallbacks: list[tuple[str, str]], reporter: Reporter) -> None:
    """One warning for each reason."""
    reasons: dict[str, list[str]] = {}
    for tensor, reason in fallbacks:
        reasons.setdefault(reason, []).append(tensor)
    for reason, tensors in reasons.items():
        names = ", ".join(tensors[:NAMED]) + (" …" if len(tensors) > NAMED else "")
        reporter.warn("{tensor} stays dense: {reason}.", tensor=names, reason=reason)


def genai_config(handle: ModelHandle, context: int) -> Mapping[str, Any]:
    """genai_config.json; its reader refuses keys that it does not know, and wants a bos_token_id even where there is none."""
    config = handle.config
    decoder = {
        "filename": GRAPH,
        "head_size": config.head_dim,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "num_hidden_layers": config.layers,
        "session_options": {"log_severity_level": ERRORS_ONLY},
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
    }
    eos = list(config.eos)
    model = {
        "type": handle.architecture.name if handle.architecture.name in GENAI_TYPES else "decoder",
        "vocab_size": config.vocabulary,
        "context_length": context,
        "bos_token_id": 1 if config.bos is None else config.bos,
        "eos_token_id": eos or [2],
        "pad_token_id": eos[0] if eos else 2,
        "decoder": decoder,
    }
    search = {"do_sample": False, "max_length": min(context, GENAI_CONTEXT), "past_present_share_buffer": True}
    return {"model": model, "search": search}


def unexpected(handle: ModelHandle, folder: Path, threads: int | None) -> list[str]:
    """The runtime loads the graph, whose inputs and outputs are those of the model.

    Without packing, which rearranges weights for speed and proves nothing about them.
    """
    layers = handle.config.layers
    if not handle.draft_weights:
        return _unlike(folder / GRAPH, range(layers), set(), threads)
    if not (folder / DRAFT).exists():
        return [DRAFT]
    drafting = _unlike(folder / DRAFT, range(layers, layers + 1), {STATES}, threads)
    return _unlike(folder / GRAPH, range(layers), {HIDDEN}, threads) + drafting


def _unlike(graph: Path, layers: range, others: set[str], threads: int | None) -> list[str]:
    """The names of inputs and outputs that it lacks, or has too many."""
    options = session_options(threads)
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = load(graph, options)
    found = {v.name for v in (*session.get_inputs(), *session.get_outputs(), *session.get_overridable_initializers())}
    kinds = cache_kinds(session)
    caches = [f"{a}.{i}.{b}" for i in layers for a in ("past_key_values", "present") for b in kinds]
    return sorted({"input_ids", "attention_mask", "num_logits_to_keep", "logits", *caches, *others} ^ found)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


TARGET = Target("cpu", emit_bundle, unexpected, read_back, open_folder, lambda: require("onnxruntime", "cpu"), left_out)
