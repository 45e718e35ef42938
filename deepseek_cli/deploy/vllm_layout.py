"""How a folder for vLLM holds each tensor: packed as it is, or dense; what its kernels cannot take is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepseek_cli.architectures.deepseek_config import CORRECTED
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.formats import compressed
from deepseek_cli.formats.nbits import spread
from deepseek_cli.formats.safetensors import Planned
from deepseek_cli.handle import ModelHandle
from deepseek_cli.ops.cost import count, count_draft
from deepseek_cli.quantize.folder import clean_config
from deepseek_cli.schemes import Scheme
from deepseek_cli.tensors import (
    DENSE_DTYPES,
    BlockTensor,
    CorrectedTensor,
    Fp8Tensor,
    QuantizedTensor,
    TensorRef,
    Weight,
    dense,
    in_pieces,
)

GROUPS = (128, 64, 32)  # that its kernels have
SCALES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}  # vLLM holds scales in the dtype of activations
ZERO_POINTS = "its groups have zero points"
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "deepseek": "DeepseekForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v32": "DeepseekV32ForCausalLM",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """`schemes` of what is packed, by its name without .weight; all else is dense. `dtype` is that of scales, and of
    quantized tensors that become dense."""

    schemes: Mapping[str, Scheme]
    dtype: torch.dtype
    fallbacks: list[tuple[str, str]]

    def planned(self, name: str, ref: TensorRef) -> list[Planned]:
        if scheme := self.schemes.get(stem := name.removesuffix(".weight")):
            return compressed.planned_parts(stem, (ref.shape[0], ref.shape[1]), scheme, self.dtype)
        return [Planned(name, DENSE_DTYPES.get(ref.stored, self.dtype), ref.shape)]

    def parts(self, name: str, weight: Weight) -> Iterator[tuple[str, Tensor | Iterable[Tensor]]]:
        """What `planned` says of it; what becomes dense comes some rows at a time."""
        if scheme := self.schemes.get(stem := name.removesuffix(".weight")):
            assert isinstance(weight, QuantizedTensor)
            yield from compressed.parts_of(stem, regrouped(weight, scheme), self.dtype)
        elif isinstance(weight, Tensor):
            yield name, weight
        else:
            yield name, (dense(part).to(self.dtype) for part in in_pieces(weight))

    def config(self, handle: ModelHandle) -> dict[str, Any]:
        """config.json. Routed experts stand first: transformers takes the first group that names any experts for theirs."""
        config = {"architectures": [CLASSES[handle.architecture.name]], **clean_config(handle.raw_config), **_gate(handle)}
        if not self.schemes:
            return config
        ordered = dict(sorted(self.schemes.items(), key=lambda item: ".mlp.experts." not in item[0]))
        stems = {name.removesuffix(".weight"): ref for name, ref in handle.stored.items()}
        left = [stem for stem, ref in stems.items() if len(ref.shape) == 2 and stem not in self.schemes]
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = SCALES[self.dtype]
        return config | {"quantization_config": compressed.quantization_config(ordered, left)}


def _gate(handle: ModelHandle) -> dict[str, str]:
    """How experts are chosen, which transformers' configs for DeepSeek-V3 leave unsaid; vLLM then takes what V2 does."""
    gate = getattr(handle.config, "gate", None)
    return {"topk_method": CORRECTED, "scoring_func": gate.scoring} if gate and gate.corrected else {}


def make_layout(handle: ModelHandle) -> Layout:
    """Raises ModelUnsupported for a linear whose codes vLLM or transformers cannot take: it is not rounded anew unasked.

    And for rotations of halves in latent attention, since vLLM turns pairs whatever config.json says (rope_interleave).
    """
    if not getattr(handle.config, "interleaved", True):
        raise ModelUnsupported(
            "{model} rotates halves, and in latent attention vLLM rotates pairs.",
            hint="Deploy it with --target metal, gguf or cpu.",
            model=handle.name,
        )
    cost, draft = count(handle.architecture, handle.config), count_draft(handle.architecture, handle.config)
    schemes: dict[str, Scheme] = {}
    fallbacks: list[tuple[str, str]] = []
    own = handle.raw_config.get("dtype", handle.raw_config.get("torch_dtype"))
    dtypes = sorted(SCALES, key=lambda dtype: SCALES[dtype] != own)
    for name, ref in handle.stored.items():
        stem = name.removesuffix(".weight")
        if not ref.quantized:
            continue
        if reason := _left_dense(stem, cost.embeddings):
            fallbacks.append((name, reason))
            continue
        weight = ref.read()
        if reason := _unfit(weight):
            raise _refused(handle, name, reason)
        assert isinstance(weight, QuantizedTensor)
        dtypes = [dtype for dtype in dtypes if torch.equal(weight.scale.to(dtype).float(), weight.scale)]
        if not dtypes:
            raise _refused(handle, name, "no dtype of activations holds its scales")
        schemes[stem] = Scheme(weight.bits, _group(weight) or 0)
        ref.release()
    for names in (*cost.fused, *draft.fused):
        _share_scheme(handle, schemes, names)
    return Layout(schemes, dtypes[0], fallbacks)


def _left_dense(stem: str, embeddings: list[str]) -> str:
    """Why a quantized tensor is written dense; "" where its codes are carried."""
    if stem in (*embeddings, "lm_head"):
        return "vLLM and transformers take no packed embedding and no packed head"
    if stem.endswith(".indexer.wk"):
        return "vLLM joins it to a projection that is dense"
    return ""


def _unfit(weight: Weight) -> str:
    """Why the codes of a linear cannot be carried; "" where they can."""
    if isinstance(weight, BlockTensor):
        return f"the {weight.format} format has no counterpart in compressed-tensors"
    if isinstance(weight, CorrectedTensor):
        return "compressed-tensors has no place for its low-rank correction"
    if isinstance(weight, Fp8Tensor):
        return "FP8 with scales along the inputs has no counterpart among packed weights"
    if not isinstance(weight, QuantizedTensor):
        return ""
    if weight.irregular:
        return weight.irregular
    if weight.zero is not None:
        return ZERO_POINTS
    if weight.shape[1] % GROUPS[-1]:
        return f"its {weight.shape[1]} inputs are not a multiple of {GROUPS[-1]}"
    if _group(weight) is None:
        return f"groups of {weight.group} are no multiple of {GROUPS[-1]}"
    return ""


def _group(weight: QuantizedTensor) -> int | None:
    """The largest group of vLLM's that no border of the weight's own cuts, 0 for a whole row, or None."""
    group, inputs = weight.group, weight.shape[1]
    if group >= inputs and group not in GROUPS:
        return 0
    return next((g for g in GROUPS if math.gcd(group, inputs) % g == 0), None)


def _share_scheme(handle: ModelHandle, schemes: dict[str, Scheme], names: tuple[str, ...]) -> None:
    """What vLLM computes as one product gets the finest of its groups."""
    found = [schemes.get(name) for name in names]
    packed = [scheme for scheme in found if scheme]
    if not packed:
        return
    if len(packed) < len(found) or len({scheme.bits for scheme in packed}) > 1:
        raise _refused(handle, names[0], f"one product computes it with {names[-1]}, which is held in another way")
    group = min((scheme.group for scheme in packed if scheme.group), default=0)
    schemes.update({name: replace(packed[0], group=group) for name in names})


def regrouped(weight: QuantizedTensor, scheme: Scheme) -> QuantizedTensor:
    """The same weight with its scales repeated for groups of the scheme's size."""
    group = scheme.group_of(weight.shape[1])
    return replace(weight, group=group, scale=spread(weight.scale, weight.group, group, weight.shape[1] // group))


def _refused(handle: ModelHandle, tensor: str, reason: str) -> ModelUnsupported:
    anew = "Round it anew, and deploy the result: deepseek quantize {model} --int4"
    either = (
        "Round it anew, and deploy the result: deepseek quantize {model} --int4, or deepseek compress … --set zero_points=false"
    )
    return ModelUnsupported(
        "{model} cannot be carried to vLLM as it is: {tensor}: {reason}.",
        hint=either if reason == ZERO_POINTS else anew,
        model=handle.name,
        tensor=tensor,
        reason=reason,
    )
