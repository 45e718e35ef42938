"""The interpreter that exports: a program for ExecuTorch, its products lowered to XNNPACK, whose weights are our bits.

Inputs and constant methods are those that ExecuTorch's TextLLMRunner knows. Products take their input rounded to int8 for each
token ("8da4w"): XNNPACK has no other kernel for int4 in groups. A last row of logits comes out, whatever goes in.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepseek_cli.ops import Architecture, AttentionSpec, forward
from deepseek_cli.ops.executorch_constants import TABLES, constants
from deepseek_cli.ops.torch_ops import TorchOps, rope_table, rotate
from deepseek_cli.tensors import TensorRef

LONGEST_STEP = 512  # tokens that are computed at once; a runner cuts longer prompts
RANGES = {4: (-8, 7), 8: (-128, 127)}
GROUP = 32  # whose multiples XNNPACK takes for int4


class Decoder(nn.Module):
    """The model, its constants and its KV cache as buffers. They have their shapes alone: what stands in them is arbitrary."""

    def __init__(self, architecture: Architecture, config: Any, refs: Mapping[str, TensorRef], context: int) -> None:
        super().__init__()
        self.architecture, self.config, self.context = architecture, config, context
        self.constants, self.forms = constants(refs, config.tied)
        for name, constant in self.constants.items():  # pages that nobody touches take no memory
            self.register_buffer(name.replace(".", "__"), torch.empty(constant.shape, dtype=constant.dtype))
        spec = config.attention
        for table, values in zip(TABLES, rope_table(spec.rope, 0, context, torch.device("cpu")), strict=True):
            self.register_buffer(table, values.unsqueeze(1))  # [context, 1, head_dim / 2]
        for layer in range(config.layers):
            for part in ("keys", "values"):
                self.register_buffer(f"{part}{layer}", torch.empty(1, context, spec.kv_heads, spec.head_dim))

    def held(self, name: str) -> Tensor | None:
        return getattr(self, name.replace(".", "__"), None)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """tokens int64 [1, n], the first one's position int64 [1], to logits [1, 1, vocabulary]"""
        start = position[0].item()
        torch._check(start >= 0)
        torch._check(start < self.context)
        torch._check(start + tokens.shape[1] <= self.context)
        return forward(ExecutorchOps(self, start), self.architecture, self.config, tokens)


class ExecutorchOps(TorchOps):
    """Quantized weights stand in the form that XNNPACK's partitioner takes for its own kernels."""

    def __init__(self, decoder: Decoder, start: Any) -> None:
        super().__init__(decoder.held)
        self.decoder, self.start = decoder, start

    def embed(self, tokens: Tensor, name: str) -> Tensor:
        form = self.decoder.forms.get(name)
        if form is None:
            return super().embed(tokens, name)
        embedding = getattr(torch.ops.quantized_decomposed, "embedding_4bit" if form[0] == 4 else "embedding_byte")
        rows, scale = self.weight(f"{name}.rows"), self.weight(f"{name}.rows_scale")
        return embedding.dtype(rows, scale, None, *RANGES[form[0]], tokens, dtype=torch.float32)

    def linear(self, x: Tensor, name: str) -> Tensor:
        form = self.decoder.forms.get(name)
        if form is None:
            return super().linear(x, name)
        return F.linear(rounded(x), self._product(name, *form), self.weight(f"{name}.bias"))

    def _product(self, name: str, bits: int, group: int) -> Tensor:
        codes, scale, zero = (self.weight(f"{name}.{part}") for part in ("codes", "scale", "zero"))
        quantized = torch.ops.quantized_decomposed
        if bits == 8:
            return quantized.dequantize_per_channel(codes, scale, zero, 0, *RANGES[8], torch.int8)
        return quantized.dequantize_per_channel_group(codes, scale, zero, *RANGES[4], torch.int8, group, torch.float32)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int, spec: AttentionSpec) -> Tensor:
        split = lambda t: t.unflatten(-1, (-1, spec.head_dim))  # noqa: E731  [1, n, heads, head_dim]
        cos, sin = (getattr(self.decoder, table).narrow(0, self.start, q.shape[1]) for table in TABLES)
        keys, values = (getattr(self.decoder, f"{part}{layer}") for part in ("keys", "values"))
        torch.ops.llama.update_cache(rotate(split(k), cos, sin), keys, self.start)
        torch.ops.llama.update_cache(split(v), values, self.start)
        turned = rotate(split(q), cos, sin)
        return torch.ops.llama.custom_sdpa(turned, keys, values, self.start, None, 0.0, True, spec.scale).flatten(-2)

    def head(self, x: Tensor, name: str) -> Tensor:
        return self.linear(x[:, -1:], name)


def rounded(x: Tensor) -> Tensor:
    """x as int8 with a scale and a zero point for each token, in float again."""
    quantized, lowest, highest = torch.ops.quantized_decomposed, *RANGES[8]
    scale, zero = quantized.choose_qparams_per_token_asymmetric(x, torch.int8)
    codes = quantized.quantize_per_token(x, scale, zero, lowest, highest, torch.int8)
    return quantized.dequantize_per_token(codes, scale, zero, lowest, highest, torch.int8, torch.float32)


def emit(architecture: Architecture, config: Any, refs: Mapping[str, TensorRef], file: Path, context: int) -> None:
    """Write the program for up to `context` tokens. Weights are read one by one while it is written, some rows at a time."""
    with quiet():
        from deepseek_cli.ops.executorch_lower import lower, write

        load_operators()
        decoder = Decoder(architecture, config, refs, context).eval()
        program = lower(decoder, min(LONGEST_STEP, context), methods(config, context), decoder.constants)
        gc.collect()  # graphs refer to themselves
        with file.open("wb") as out:
            write(program, decoder.constants, out)


def methods(config: Any, context: int) -> dict[str, Any]:
    """What a runner asks of a program before it runs it."""
    found = {
        "get_eos_ids": list(config.eos),
        "get_max_context_len": context,
        "get_max_seq_len": min(LONGEST_STEP, context),
        "get_n_layers": config.layers,
        "get_vocab_size": config.vocabulary,
        "enable_dynamic_shape": True,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
    }
    return found if config.bos is None else {**found, "get_bos_id": config.bos}


def load_operators() -> None:
    """ExecuTorch's attention, cache and embeddings, for export and for its runtime in this process."""
    import executorch.kernels.quantized  # noqa: F401
    from executorch.exir.passes import _quant_patterns_and_replacements  # noqa: F401  defines the embeddings
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what these libraries say of themselves and of PyTorch."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
