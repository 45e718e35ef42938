"""What can be said to `deepseek deploy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepseek_cli.spec import option


@dataclass(frozen=True, slots=True)
class DeploySpec:
    target: str = option("auto", help="what to build for; auto is this machine", metavar="NAME")
    verify: Literal["structure", "weights", "logits", "tokens"] | None = option(
        None, help="how far to verify; by default as far as memory and two minutes go"
    )
    list: bool = option(False, help="list the targets")
