"""A report card, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_cli.output import Line, Table


def report_lines(report: Mapping[str, Any] | None) -> list[str | Line | Table]:
    """The report card of a manifest; nothing where there is none."""
    if not report:
        return []
    if "kl" not in report:
        return [Line("Quality is unmeasured: {reason}.", reason=report.get("unmeasured", "-"))]
    lines: list[str | Line | Table] = [
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
    texts = report.get("texts", [])  # cards of version 0.1 have none
    if len(texts) > 1:
        header = ["text", "KL", "p99", "p99.9", "agreement", "perplexity", "accuracy"]
        lines.append(Table(header, [_row(card) for card in texts]))
    return lines


def _row(card: Mapping[str, Any]) -> list[str]:
    divergence = [f"{card[name]:.4f}" for name in ("kl", "kl_p99", "kl_p999")]
    before_after = [f"{card['reference_perplexity']:.2f} → {card['perplexity']:.2f}"]
    accuracy = f"{card['reference_accuracy']:.1%} → {card['accuracy']:.1%}"
    return [card["text"], *divergence, f"{card['agreement']:.1%}", *before_after, accuracy]
