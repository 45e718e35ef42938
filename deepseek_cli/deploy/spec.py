"""What can be said to `deepseek deploy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deepseek_cli.errors import UsageError
from deepseek_cli.spec import as_record, option

IN_PASSING = ("list", "pull", "int4", "int8")  # what says nothing of the bundle itself


@dataclass(frozen=True, slots=True)
class DeploySpec:
    target: str = option("auto", help="what to build for; auto is this machine", metavar="NAME")
    verify: Literal["structure", "weights", "logits", "tokens"] | None = option(
        None, help="how far to verify; by default as far as memory and two minutes go"
    )
    kv: Literal["fp32", "fp16", "int8"] = option(
        "fp32", help="how wide the KV cache is: fp16 is half the memory, and slower; int8 a quarter, rounded by channel"
    )
    precision: Literal["fp32", "fp16", "bf16"] | None = option(
        None, help="what is not quantized becomes this; by default it stays, as far as the target has it"
    )
    latent_cache: Literal["plain", "gqa"] = option(
        "plain",
        help="gqa for GroupQueryAttention: rows of a batch may differ in length, and onnxruntime-genai runs it",
        rare=True,
    )
    rounds_tokens: bool = option(
        False, help="multiply in int8 where a weight's rows have one scale each: activations rounded by token; faster", rare=True
    )
    server_files: bool = option(
        False, help="with --target cpu: add compose.yaml and a systemd unit that run `deepseek serve`", rare=True
    )
    pull: bool = option(False, help="fetch the model first, where it is not on this machine")
    int4: bool = option(False, help="quantize a dense model first, as `quantize --int4` does")
    int8: bool = option(False, help="the same with 8 bits")
    list: bool = option(False, help="list the targets")

    def __post_init__(self) -> None:
        if self.int4 and self.int8:
            raise UsageError("{flags} exclude each other.", hint="Give one of them.", flags="--int4 and --int8")

        if self.server_files and self.target not in ("auto", "cpu"):
            raise UsageError(
                "server_files is for --target cpu, not for {target}: what serves with vLLM, llama.cpp or TensorRT has its own.",
                hint="Leave it out.",
                target=self.target,
            )

    @property
    def scheme(self) -> str:
        """What to quantize to in passing; empty for nothing."""
        return "int4" if self.int4 else "int8" if self.int8 else ""

    @property
    def record(self) -> dict[str, Any]:
        """What the bundle depends on."""
        return {name: value for name, value in as_record(self).items() if name not in IN_PASSING}
