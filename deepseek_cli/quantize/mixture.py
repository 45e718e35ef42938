"""Which of ggml's block formats a weight gets: the mixture that llama.cpp calls Q4_K_M, and what narrow rows fall back to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepseek_cli.schemes import DENSE, MIXTURE, Scheme, parse_scheme

FEW, MANY = parse_scheme("q4_k"), parse_scheme("q6_k")
COSTLY = ("v_proj", "down_proj")  # get more bits in some layers
NARROW = {"q4_k": "q5_0", "q6_k": "q8_0"}  # where rows are no multiple of 256
LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Blocks:
    layers: int
    head: str  # what logits come from, without `.weight`

    def of(self, stem: str, inputs: int, scheme: Scheme) -> tuple[Scheme, str]:
        """The format of a weight that `scheme` is meant for, and why it is another than that, if it is."""
        from deepseek_cli.blocks import BLOCKS  # with torch, which a plan of codes does without

        wanted = self._mixed(stem) if scheme.block == MIXTURE else scheme
        values = BLOCKS[wanted.block].values
        if inputs % values == 0:
            return wanted, ""
        found = parse_scheme(NARROW[wanted.block])
        return found, f"its {inputs} inputs are not a multiple of {values}, which {wanted} wants"

    def _mixed(self, stem: str) -> Scheme:
        if stem == self.head:
            return MANY
        layer = LAYER.search(stem)
        costly = layer and stem.endswith(COSTLY) and self._counts_more(int(layer[1]))
        return MANY if costly else FEW

    def _counts_more(self, layer: int) -> bool:
        """The first and the last eighth of the layers, and every third one between them."""
        first = self.layers // 8
        return layer < first or layer >= 7 * self.layers // 8 or (layer - first) % 3 == 2


def in_blocks(scheme: Scheme) -> Scheme:
    """The format that takes the place of a scheme of 8 or 16 bits."""
    return DENSE if scheme.bits == 16 else parse_scheme("q8_0")
