"""A report card, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_cli.output import Line


def report_lines(report: Mapping[str, Any] | None) -> list[Line]:
    """The report card of a manifest; nothing where there is none."""
    if not report:
        return []
    if "kl" not in report:
        return [Line("Quality is unmeasured: {reason}.", reason=report.get("unmeasured", "-"))]
    return [
        Line(
            "Against {against}: KL divergence {kl:.4f} (p99 {p99:.2f}), top-1 agreement {agreement:.1%}, "
            "perplexity {before:.2f} → {after:.2f}, over {tokens} tokens of {text}.",
            against=report["against"],
            kl=report["kl"],
            p99=report["kl_p99"],
            agreement=report["agreement"],
            before=report["reference_perplexity"],
            after=report["perplexity"],
            tokens=report["tokens"],
            text=report["text"],
        )
    ]
