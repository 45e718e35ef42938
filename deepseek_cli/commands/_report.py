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
    if "lost_probability" in report:
        lines.append(
            Line(
                "Tokens that are gone have {lost:.1%} of the original's probability, which counts as that of their first pieces.",
                lost=report["lost_probability"],
            )
        )
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


def quality_gates(spec: Any, report: Mapping[str, Any]) -> list[Line]:
    """What a report card misses of `max_kld` and `max_accuracy_loss`, where `spec` gives them."""
    loss = report["accuracy_loss_most"]
    gates = []
    if spec.max_kld is not None and report["kl"] > spec.max_kld:
        gates.append(Line("The KL divergence {kl:.4f} is above --max-kld {most}.", kl=report["kl"], most=spec.max_kld))
    if spec.max_accuracy_loss is not None and loss > spec.max_accuracy_loss:
        gates.append(
            Line(
                "The accuracy loss may be {loss:.2%}, which is above --max-accuracy-loss {most:.2%}.",
                loss=loss,
                most=spec.max_accuracy_loss,
            )
        )
    return gates
