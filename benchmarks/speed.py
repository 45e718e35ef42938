"""Our bundles beside llama.cpp and onnxruntime-genai, on the same weights, in one interleaved run.

    python benchmarks/speed.py

Prefill of 512 tokens, decoding from depths 0 and 512, a thread per core; beside each arm its head's scheme and the KL divergence
of that very artefact in its own runtime, from the bf16 model: SmolLM2-135M-Instruct, moved off its grid (off_grid.py).
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import DEEPSEEK, PEER, PEER_WORKER, WORK, arguments, median, run, show, smollm2

from deepseek_cli.bench.environment import physical_cores
from deepseek_cli.bench.measure import Arm, ask, document, measure, samples_of, started
from deepseek_cli.bench.metrics import paired_ratio
from deepseek_cli.bench.report import digits, machine_line, save

OURS = {  # name → quantize's options
    "int4-g64, head int4": ["--scheme", "int4-g64", "--rule", "lm_head=int4-g64"],
    "int4-g64, head int8": ["--scheme", "int4-g64"],
    "int4-g32, head int4": ["--scheme", "int4-g32", "--rule", "lm_head=int4-g32"],
    "int4-g32, head int8": ["--scheme", "int4-g32"],
}
LLAMA, GENAI, GENAI_THREADS = (
    "llama.cpp Q4_0",
    "onnxruntime-genai int4-g32, as it comes",
    "onnxruntime-genai int4-g32, threads set",
)
PEERS = (LLAMA, GENAI, GENAI_THREADS)
WINDOWS = 16  # of 256 tokens, for the KL divergence
SHOWN = ("prefill", "decode@0", "decode@512")


def subject(work: Path) -> Path:
    """The model, off its grid."""
    folder = work / "smollm2-off-grid"
    if not folder.exists():
        run(sys.executable, Path(__file__).with_name("off_grid.py"), smollm2(work), folder)
    return folder


def bundle(work: Path, model: Path, name: str) -> Path:
    slug = f"{model.name}-{name.replace(', ', '-').replace(' ', '-')}"
    if not (work / slug / "bundle").exists():
        run(*DEEPSEEK, "quantize", model, *OURS[name], "--algorithm", "rtn", "-o", work / slug / "model", "--force")
        run(*DEEPSEEK, "deploy", work / slug / "model", "--target", "cpu", "-o", work / slug / "bundle")
    return work / slug / "bundle"


def peers(work: Path, model: Path) -> dict[str, tuple[str, Path]]:
    """Worker and artefact of each peer, made by its own tools. onnxruntime-genai by itself may use fewer threads than cores."""
    folder = work / f"{model.name}-peers"
    folder.mkdir(exist_ok=True)
    gguf, dense, genai = folder / "q4_0.gguf", folder / "bf16.gguf", folder / "genai"
    if not gguf.exists():
        run(*PEER, "convert", model, dense)
        run(*PEER, "quantize", dense, gguf)
        dense.unlink()
    if not genai.exists():
        run(*PEER, "genai", model, genai, "int4")
    return {LLAMA: ("llama", gguf), GENAI: ("genai-default", genai), GENAI_THREADS: ("genai-threads", genai)}


class PeerPredictor:
    """A peer's logits in its own runtime, for `evaluate.compare`."""

    def __init__(self, arm: Arm, tokens: Any) -> None:
        self.arm, self.tokens, self.window = arm, tokens, -1

    def logits(self, window: int, start: int, stop: int) -> Any:
        import numpy as np
        import torch

        if window != self.window:
            with tempfile.NamedTemporaryFile(suffix=".npy") as file:
                ask(self.arm, {"do": "logits", "tokens": self.tokens[window].tolist(), "file": file.name})
                self.window, self.found = window, torch.from_numpy(np.load(file.name))
        return self.found[start:stop]


def divergences(arms: dict[str, Arm], model: Path, windows: int) -> dict[str, float]:
    """Mean KL divergence from the model, in nats, of each arm's artefact."""
    from deepseek_cli.evaluate import HandlePredictor, SessionPredictor, compare, cut_windows
    from deepseek_cli.handle import open_any, open_model
    from deepseek_cli.runtime.session import open_session
    from deepseek_cli.runtime.tokenizer import open_tokenizer
    from deepseek_cli.store import Store

    store = Store(WORK / "home")
    handle = open_model(str(model), store)
    cut = cut_windows(open_tokenizer(handle.root), most=windows)
    reference = HandlePredictor(handle, cut.tokens)
    found = {}
    for name, arm in arms.items():
        ours = name in OURS
        session = open_session(open_any(arm.ref, store), context=cut.tokens.shape[1]) if ours else None
        predictor = SessionPredictor(session, cut.tokens) if session else PeerPredictor(arm, cut.tokens)
        found[name] = float(compare(reference, predictor, cut)["kl"])  # type: ignore[arg-type]
    return found


def head_of(name: str, path: Path) -> str:
    """The scheme of the output head, read from the artefact itself."""
    if name in OURS:
        patterns = json.loads((path / "deepseek.json").read_text())["quantization"]
        return str(next((scheme for pattern, scheme in patterns.items() if "embed" in pattern or "head" in pattern), "?"))
    return "Q8_0" if name == LLAMA else "int4-g32"


@contextlib.contextmanager
def workers(paths: dict[str, tuple[str, Path]], settings: dict[str, Any]) -> Iterator[dict[str, Arm]]:
    with contextlib.ExitStack() as stack:
        arms = {}
        for name, (kind, path) in paths.items():
            command = [str(word) for word in (*PEER_WORKER, kind)] if kind else []
            facts = {**settings, "ref": str(path), "name": name, "home": str(WORK / "home"), "path": sys.path}
            arms[name] = stack.enter_context(started(str(path), facts, command))
            if arms[name].error:
                raise SystemExit(f"{name}: {arms[name].error}")
        yield arms


def main() -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--model", type=Path, help="another bf16 folder of Llama shape")
    parser.add_argument("--arms", default=",".join(str(i) for i in range(len(OURS))), help="which of our four bundles, by number")
    parser.add_argument(
        "--windows", type=int, default=WINDOWS, help="windows of 256 tokens for the KL divergence; 0 leaves it out"
    )
    parser.add_argument("--save", type=Path, help="all figures and samples as JSON")
    args = parser.parse_args()
    model = args.model or subject(args.work)
    names = [list(OURS)[int(i)] for i in args.arms.split(",")]
    paths = peers(args.work, model) | {name: ("", bundle(args.work, model, name)) for name in names}
    settings = {
        "prompt_tokens": 512,
        "new_tokens": 64,
        "depths": [0, 512],
        "context": 1024,
        "threads": physical_cores(),
        "device": "cpu",
        "seed": 0,
    }
    with workers(paths, settings) as arms:
        measure(list(arms.values()), args.rounds, SilentWithWarnings())
        kl = divergences(arms, model, args.windows) if args.windows else {}
    found = document(list(arms.values()), {**settings, "rounds": args.rounds}, None)
    rows = []
    for (name, arm), record in zip(arms.items(), found["arms"], strict=True):
        head = head_of(name, paths[name][1])
        record |= {"ref": name, "name": name, "head": head, "quantization": None}  # no paths in what is kept
        ratios = [" / ".join(ratio(arm, arms[peer], metric) for metric in SHOWN) for peer in PEERS]
        speeds = [digits(median(samples_of(arm)[metric])) for metric in SHOWN]
        rows.append([name, head, f"{arm.ready['bytes'] / 1e6:.0f}", f"{kl[name]:.3f}" if kl else "-", *speeds, *ratios])
    show(["arm", "head", "MB", "KL", *(f"{metric} tok/s" for metric in SHOWN), *(f"times {peer}" for peer in PEERS)], rows)
    print("\nThe last columns are medians of per-round ratios: " + " / ".join(SHOWN) + ".")
    print(f"{args.rounds} interleaved rounds. {machine_line(found)}")
    if args.save:
        save({**found, "kl": kl}, args.save)


def ratio(arm: Arm, other: Arm, metric: str) -> str:
    if arm is other:
        return "1"
    return f"{paired_ratio(samples_of(arm)[metric], samples_of(other)[metric]):.2f}"


class SilentWithWarnings:
    def note(self, message: str, **facts: object) -> None: ...

    def warn(self, message: str, **facts: object) -> None:
        print(message.format(**facts), file=sys.stderr)

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        print(f"round {done} of {total}", file=sys.stderr)


if __name__ == "__main__":
    main()
