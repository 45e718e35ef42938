"""Writes the model card from what the other steps measured: `python -m nano.card --folder build/nano`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from nano.model import CONFIG
from nano.sources import SOURCES
from nano.train import CHAT_PART, TUNE_CHAT, TUNE_RATE

HERE = Path(__file__).parent


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def card(folder: Path, model: Path) -> str:
    corpus = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    figures = json.loads((HERE / "figures.json").read_text(encoding="utf-8"))
    found, answered = figures["heldout"], figures["answers"]
    samples = json.loads((model / "samples.json").read_text(encoding="utf-8"))
    log = events(folder / "train.log")
    start = [line for line in log if line.get("event") == "start"][-1]
    last = [line for line in log if "loss" in line][-1]
    used = {name: values for name, values in corpus["sources"].items() if values["train_bytes"]}
    texts = {source.name: source.text for source in SOURCES}
    return (
        (HERE / "card_template.md")
        .read_text(encoding="utf-8")
        .format(
            parameters=start["parameters"] / 1e6,
            layers=CONFIG["num_hidden_layers"],
            hidden=CONFIG["hidden_size"],
            q_rank=CONFIG["q_lora_rank"],
            rank=CONFIG["kv_lora_rank"],
            heads=CONFIG["num_attention_heads"],
            nope=CONFIG["qk_nope_head_dim"],
            rope=CONFIG["qk_rope_head_dim"],
            experts=CONFIG["n_routed_experts"],
            groups=CONFIG["n_group"],
            top_k=CONFIG["num_experts_per_tok"],
            vocabulary=f"{CONFIG['vocab_size']:,}",
            size=sum(file.stat().st_size for file in model.iterdir()) / 1e6,
            sources="\n".join(
                f"| {texts[name]} | {one['package']} | {one['licence']} | {one['language']} | {one['train_bytes']:,} |"
                for name, one in used.items()
            ),
            helpers="; ".join(
                f"{s.client}:{s.package} {s.version} ({s.licence})" for s in SOURCES if s.name not in corpus["sources"]
            ),
            conversations=corpus["conversations"],
            trained_tokens=last["step"] * start["tokens_a_step"] / 1e6,
            text_tokens=(folder / "train.u16").stat().st_size / 2e6,
            chat_tokens=(folder / "chat.u16").stat().st_size / 2e6,
            steps=last["step"],
            step_tokens=start["tokens_a_step"],
            minutes=last["seconds"] / 60,
            workers=start["workers"],
            seed=start["seed"],
            chat_before=round(100 * CHAT_PART[0]),
            chat_after=round(100 * CHAT_PART[1]),
            tune=start["tune"],
            tune_rate=TUNE_RATE,
            tune_chat=round(100 * TUNE_CHAT),
            tokens=found["tokens"],
            perplexity=found["perplexity"],
            kneser_ney=found["kneser_ney_5"],
            unigram=found["unigram"],
            below_kneser_ney=found["below_kneser_ney_5"],
            below_unigram=found["below_unigram"],
            by_source="\n".join(f"| {texts[name]} | {value} |" for name, value in found["by_source"].items()),
            answers="\n".join(f"| {cell(s['question'])} | {cell(s['answer'])} | {'✓' if s['right'] else ''} |" for s in samples),
            **answered,
            accepted=answered["hits"] / answered["guesses"],
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/nano"))
    parser.add_argument("--model", type=Path, default=Path("deepseek_cli/data/nano"))
    options = parser.parse_args()
    (options.model / "MODEL_CARD.md").write_text(card(options.folder, options.model), encoding="utf-8")
    shutil.copyfile(options.folder / "train.log", HERE / "train.log")


if __name__ == "__main__":
    main()
