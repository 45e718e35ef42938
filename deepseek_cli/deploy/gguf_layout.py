"""Which tensors a GGUF file holds, from which weights each comes, and how those are read back from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from deepseek_cli.architectures.llama import EMBEDDING, HEAD
from deepseek_cli.deploy.mlx_folder import as_released, pair_order, unties
from deepseek_cli.formats.gguf import Gguf, each_weight
from deepseek_cli.formats.gguf_model import INNER, OUTER, half_split_rows
from deepseek_cli.formats.gguf_writer import Entry, kind_of, unfit
from deepseek_cli.formats.mlx import join_expansion, split_expansion
from deepseek_cli.handle import ModelHandle
from deepseek_cli.tensors import DENSE_DTYPES, TensorRef, Weight, dense, take_rows

OUTER_NAMES = {ours: name for name, ours in OUTER.items()}
INNER_NAMES = {ours: name for name, ours in INNER.items()} | {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
CORRECTION = "mlp.gate.e_score_correction_bias"
EXPERT = re.compile(r"(?P<mlp>.+\.experts)\.(?P<expert>\d+)\.(?P<linear>\w+\.weight)")
KEYS, VALUES = "attn_k_b", "attn_v_b"  # the parts of kv_b_proj
ALWAYS_WIDE = ("ffn_gate_inp.weight",)  # llama.cpp routes in float32


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of the file; `refs` are the weights that it holds, as they lie on disk, several where experts are stacked.

    `heads` says of how many heads rotated halves are laid side by side in it. Of kv_b_proj it holds the `part` that is keys or
    values, `expansion` being the number of its heads, their channels that are keys, and those that are values.
    """

    name: str
    refs: tuple[TensorRef, ...]
    heads: int = 0
    part: str = ""
    expansion: tuple[int, int, int] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        heads, nope, value = self.expansion
        rank = self.refs[0].shape[-1]
        if self.part:
            return (heads, rank, nope) if self.part == KEYS else (heads, value, rank)
        return (len(self.refs), *self.refs[0].shape) if EXPERT.fullmatch(self.refs[0].name) else self.refs[0].shape

    def read(self) -> Iterator[Weight]:
        for ref in self.refs:
            found = ref.read()
            if self.part:
                heads, nope, _ = self.expansion
                keys, values = split_expansion(dense(found), heads, nope)
                yield keys if self.part == KEYS else values
            else:
                yield take_rows(found, half_split_rows(ref.shape[0], self.heads).argsort()) if self.heads else found
            ref.release()

    def entry(self, fallbacks: list[tuple[str, str]]) -> Entry:
        """What will be written; names of weights whose codes it cannot be join `fallbacks`, each with the reason."""
        kind = "f32"
        if all(ref.stored in DENSE_DTYPES for ref in self.refs):
            stored = {ref.stored for ref in self.refs}
            narrow = len(stored) == 1 and stored <= {"f16", "bf16"} and len(self.shape) > 1
            kind = stored.pop() if narrow and not self.name.endswith(ALWAYS_WIDE) else "f32"
        elif reason := self._unfit():
            fallbacks += [(ref.name, reason) for ref in self.refs if ref.stored not in DENSE_DTYPES]
        else:
            kind = kind_of(self.refs[0].read())
        for ref in self.refs:
            ref.release()
        return Entry(self.name, kind, self.shape, self.read)

    def _unfit(self) -> str:
        if self.part:
            return "llama.cpp splits and transposes it"
        if self.name.endswith(ALWAYS_WIDE):
            return "llama.cpp routes in float32"
        if any(ref.stored in DENSE_DTYPES for ref in self.refs):
            return "not all of its experts are quantized"
        kinds = set()
        for ref in self.refs:
            weight = ref.read()
            if reason := unfit(weight):
                return reason
            kinds.add(kind_of(weight))
        return "its experts do not share one format" if len(kinds) > 1 else ""


def pieces(handle: ModelHandle) -> Iterator[Piece]:
    """The tensors of a file in the order of the model's weights."""
    refs, latent, unused = as_released(handle), getattr(handle.config, "latent", None), left_out(handle)
    for name, ref in refs.items():
        expert = EXPERT.fullmatch(name)
        if expert and expert["expert"] == "0":
            names = (f"{expert['mlp']}.{i}.{expert['linear']}" for i in range(handle.config.gate.experts))
            yield Piece(gguf_name(f"{expert['mlp']}.{expert['linear']}"), tuple(map(refs.__getitem__, names)))
        elif latent and name.endswith(".kv_b_proj.weight"):
            layer = f"blk.{name.split('.')[2]}"
            for part in (KEYS, VALUES):
                yield Piece(f"{layer}.{part}.weight", (ref,), 0, part, (latent.heads, latent.nope_dim, latent.value_dim))
        elif not expert and name not in unused:
            yield Piece(gguf_name(name), (ref,), heads=paired_heads(handle, name))
    if unties(handle):
        yield Piece(OUTER_NAMES[f"{HEAD}.weight"], (refs[f"{EMBEDDING}.weight"],))


def left_out(handle: ModelHandle) -> set[str]:
    """The indexer's weights: files hold no more tokens than it chooses anyway."""
    return {name for name in handle.weights if ".indexer." in name}


def paired_heads(handle: ModelHandle, name: str) -> int:
    """How many heads' rows a tensor keeps that llama.cpp rotates in pairs and we in halves; 0 for others."""
    if handle.architecture.name not in ("llama", "deepseek"):
        return 0
    return {"q_proj": handle.config.heads, "k_proj": handle.config.kv_heads}.get(name.split(".")[-2], 0)


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` to `blk.3.attn_q.weight`."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, _, layer, part = name.split(".", 3)
    if part == CORRECTION:
        return f"blk.{layer}.exp_probs_b.bias"
    inner, _, kind = part.rpartition(".")
    return f"blk.{layer}.{INNER_NAMES[inner]}.{kind}"


def read_pieces(handle: ModelHandle, file: Gguf) -> Iterator[tuple[str, Weight]]:
    """Weights by on-disk name as the file holds them, their rows in our operators' order."""
    order, keys = pair_order(handle), torch.empty(0)
    for piece in pieces(handle):
        found = each_weight(file, file.tensors[piece.name])
        if piece.part == KEYS:
            keys = torch.stack([dense(part) for part in found])
        elif piece.part == VALUES:
            yield piece.refs[0].name, join_expansion(keys, torch.stack([dense(part) for part in found]))
        else:
            for ref, weight in zip(piece.refs, found, strict=True):
                if piece.heads:
                    weight = take_rows(weight, half_split_rows(ref.shape[0], piece.heads))
                yield ref.name, take_rows(weight, torch.tensor(order[ref.name])) if ref.name in order else weight
