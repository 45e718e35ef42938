"""Names for how a weight is quantized: `int4-g32`, `int8-channel`, `int4-g64-asym`, `q6_k`, `bf16`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepseek_cli.errors import UsageError

GRAMMAR = "int4[-g32|-g64|-g128][-asym][-pos][-rRANK], int3 likewise, int8[-channel|-g32|-g64|-g128][-asym][-rRANK], "
GRAMMAR += "q4_k_m, q4_k, q5_0, q6_k, q8_0, bf16"
PATTERN = re.compile(
    r"int(?P<bits>[348])(?:-(?P<group>channel|g32|g64|g128))?(?P<asym>-asym)?(?P<pos>-pos)?(?:-r(?P<rank>[1-9]\d{0,3}))?"
)
BLOCK_BITS = {"q4_k": 4.5, "q5_0": 5.5, "q6_k": 6.5625, "q8_0": 8.5}  # of ggml's formats that are written, scales and all
MIXTURE = "q4_k_m"  # of them; see quantize.mixture


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` 16 keeps a weight dense in bfloat16. `group` 0 is one scale for a whole row.

    `positive` maps the largest magnitude to +(2 ** (bits - 1) - 1) so that scales stay positive, for runtimes that
    refuse negative ones; otherwise the full range is used and a scale carries the sign of the largest magnitude.
    `block` is one of BLOCK_BITS, or MIXTURE where the weight decides: then only `bits` means anything beside it.
    `rank` is that of a low-rank correction beside the codes, 0 without one.
    """

    bits: int
    group: int = 0
    symmetric: bool = True
    positive: bool = False
    block: str = ""
    rank: int = 0

    def __str__(self) -> str:
        if self.bits == 16:
            return "bf16"
        if self.block:
            return self.block
        group = f"-g{self.group}" if self.group else "-channel"
        rank = f"-r{self.rank}" if self.rank else ""
        return f"int{self.bits}{group}{'' if self.symmetric else '-asym'}{'-pos' if self.positive else ''}{rank}"

    def group_of(self, inputs: int) -> int:
        """Inputs per scale for a row of `inputs`."""
        return min(self.group, inputs) if self.group else inputs

    def rank_of(self, out: int, inputs: int) -> int:
        """The rank of the correction of an [out, inputs] weight."""
        return min(self.rank, out, inputs)

    def bytes_of(self, out: int, inputs: int) -> int:
        """Bytes of a quantized [out, inputs] weight on disk: codes, scales and corrections in two bytes, packed zero points."""
        if self.bits == 16:
            return 2 * out * inputs
        if self.block:
            return int(out * inputs * BLOCK_BITS[self.block] / 8)
        groups = -(-inputs // self.group_of(inputs))
        zeros = 0 if self.symmetric else -(-out * self.bits // 32) * 4 * groups
        correction = 2 * self.rank_of(out, inputs) * (out + inputs)
        return out * inputs * self.bits // 8 + 2 * out * groups + zeros + correction


DENSE = Scheme(16)


def parse_scheme(text: str, default_group: int = 32) -> Scheme:
    """A scheme from its name; `int4` and `int3` alone take `default_group`, `int8` alone is per channel.

    Raises UsageError for a name outside the grammar.
    """
    if text in ("bf16", "dense"):
        return DENSE
    if text in BLOCK_BITS or text == MIXTURE:
        return Scheme(int(text[1]), block=text)
    match = PATTERN.fullmatch(text)
    if not match:
        raise UsageError("There is no scheme named {scheme!r}.", hint="Schemes are: {grammar}.", scheme=text, grammar=GRAMMAR)
    bits, group = int(match["bits"]), match["group"]
    if bits < 8 and group == "channel":
        raise UsageError(
            "int{bits} needs groups: one scale for a whole row loses too much.",
            hint="Use int{bits}-g32, int{bits}-g64 or int{bits}-g128.",
            bits=bits,
        )
    size = default_group if group is None and bits < 8 else int((group or "g0").lstrip("g")) if group != "channel" else 0
    if match["asym"] and match["pos"]:
        raise UsageError("{scheme}: -pos is for symmetric schemes.", hint="Leave -asym or -pos out.", scheme=text)
    return Scheme(bits, size, not match["asym"], bool(match["pos"]), rank=int(match["rank"] or 0))


def pattern_of(name: str) -> str:
    """A tensor's name with `*` for each number in it: one pattern for all layers and all experts."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
