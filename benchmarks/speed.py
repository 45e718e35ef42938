"""Our bundles beside llama.cpp, onnxruntime-genai and OpenVINO GenAI, on the same weights, in one interleaved run.

    python benchmarks/speed.py

Each peer with the settings that it is fastest with here. Beside the figures stands what differs: schemes of weights, embedding
and head, what is rounded on the way, and the KL divergence of that very artefact in its own runtime, from the bf16 model:
SmolLM2-135M-Instruct, moved off its grid (off_grid.py).
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import DEEPSEEK, WORK, arguments, run, show, smollm2
from contenders import HEADERS, Peer, artefact, command, contenders, differences, divergence, fastest, obstacle

from deepseek_cli.bench import roofline
from deepseek_cli.bench.arms import Arm, ask, started
from deepseek_cli.bench.environment import load_average, physical_cores
from deepseek_cli.bench.measure import measure
from deepseek_cli.bench.record import document, samples_of
from deepseek_cli.bench.report import digits, machine_line, roof_line, save
from deepseek_cli.bench.starts import start_in_turn
from deepseek_cli.bench.statistics import paired_ratio
from deepseek_cli.errors import DeepseekError

OURS: dict[str, tuple[list[str], list[str]]] = {  # name → quantize's options, and deploy's
    "int4-g64, head int4": (["--scheme", "int4-g64", "--rule", "lm_head=int4-g64"], []),
    "int4-g64, head int8": (["--scheme", "int4-g64"], []),
    "int4-g32, head int4": (["--scheme", "int4-g32", "--rule", "lm_head=int4-g32"], []),
    "int4-g32, head int8": (["--scheme", "int4-g32"], []),
    "int4-g64, head int4, cache int8": (["--scheme", "int4-g64", "--rule", "lm_head=int4-g64"], ["--kv", "int8"]),
    "int4-g32, head int8, cache int8": (["--scheme", "int4-g32"], ["--kv", "int8"]),
    "int4-g128, head int4": (["--scheme", "int4-g128", "--rule", "lm_head=int4-g128"], []),
}
WINDOWS, WINDOW = 16, 256  # for the KL divergence: how many, and their tokens


def subject(work: Path) -> Path:
    """The model, off its grid."""
    folder = work / "smollm2-off-grid"
    if not folder.exists():
        run(sys.executable, Path(__file__).with_name("off_grid.py"), smollm2(work), folder)
    return folder


def bundle(work: Path, model: Path, name: str) -> Path:
    slug = f"{model.name}-{name.replace(', ', '-').replace(' ', '-')}"
    if not (work / slug / "bundle").exists():
        quantize, deploy = OURS[name]
        run(*DEEPSEEK, "quantize", model, *quantize, "--algorithm", "rtn", "-o", work / slug / "model", "--force")
        run(*DEEPSEEK, "deploy", work / slug / "model", "--target", "cpu", *deploy, "-o", work / slug / "bundle")
    return work / slug / "bundle"


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
                if self.arm.error:
                    raise self.arm.error
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
        try:
            found[name] = float(compare(reference, predictor, cut)["kl"])  # type: ignore[arg-type]
        except DeepseekError as error:
            print(f"{name} has no KL divergence: {error}", file=sys.stderr)
    return found


def ours(name: str, arm: Arm, kl: float | None) -> list[str]:
    """One row of HEADERS, from the bundle itself."""
    manifest = json.loads((Path(arm.ref) / "deepseek.json").read_text())
    patterns = manifest["quantization"]
    end = next((str(scheme) for pattern, scheme in patterns.items() if "embed" in pattern or "head" in pattern), "bf16")
    weights = next(str(scheme) for pattern, scheme in patterns.items() if "layers.0." in pattern)
    kv = manifest["steps"][-1]["resolved"].get("kv", "fp32")
    rounding = f"int8 in blocks of the group (accuracy_level 4); cache {kv}"
    return [name, "this", "-", weights, end, f"{end}, shared", rounding, f"{arm.ready['bytes'] / 1e6:.0f}", divergence(kl)]


@contextlib.contextmanager
def workers(plans: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Arm]]:
    """Those that start; the others are said."""
    with contextlib.ExitStack() as stack:
        arms = {name: stack.enter_context(started(plan["ref"], plan, plan["command"])) for name, plan in plans.items()}
        yield well(arms)


def well(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Those without an error; the others are said."""
    for name, arm in arms.items():
        if arm.error:
            print(f"{name} is left out: {arm.error}", file=sys.stderr)
    return {name: arm for name, arm in arms.items() if not arm.error}


def counts(text: str) -> list[int]:
    return sorted({int(word) for word in text.split(",")})


def parsed() -> Any:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--model", type=Path, help="another bf16 folder of Llama shape")
    parser.add_argument("--arms", default="0,1,2,3,4,5", help="which of our bundles, by number")
    parser.add_argument("--prompts", type=counts, default=[512], help="tokens of the prompts, such as 512,2048")
    parser.add_argument("--depths", type=counts, default=[0, 512], help="where decoding starts, such as 0,512,2048")
    parser.add_argument("--starts", type=int, default=3, help="processes for the time from start to first token")
    parser.add_argument("--as-they-come", action="store_true", help="do not look for the peers' best settings")
    parser.add_argument(
        "--windows", type=int, default=WINDOWS, help="windows of 256 tokens for the KL divergence; 0 leaves it out"
    )
    parser.add_argument("--save", type=Path, help="all figures and samples as JSON")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    model, threads = args.model or subject(args.work), physical_cores()
    settings = {
        "prompt_tokens": args.prompts,
        "new_tokens": [64],
        "depths": args.depths,
        "context": max(*args.prompts, args.depths[-1] + 64, WINDOW) + 16,
        "threads": threads,
        "device": "cpu",
        "seed": 0,
    }
    home = {"home": str(WORK / "home")}  # which is not part of what is kept
    plans: dict[str, dict[str, Any]] = {}
    peers: dict[str, tuple[Peer, dict[str, Any]]] = {}
    tried = {**settings, "prompt_tokens": args.prompts[:1], "depths": args.depths[:2]}
    for peer in contenders(threads):
        if reason := obstacle(peer):
            print(reason, file=sys.stderr)
            continue
        path = artefact(peer, args.work, model)
        own = {} if args.as_they_come else fastest(peer, path, tried)
        peers[peer.name] = (peer, own)
        plans[peer.name] = {**settings, "ref": str(path), "name": peer.name, "command": command(peer, own), **home}
    for name in (list(OURS)[int(i)] for i in args.arms.split(",")):
        plans[name] = {**settings, "ref": str(bundle(args.work, model, name)), "name": name, "command": [], **home}
    before, roof = load_average(), roofline.measured(threads, SilentWithWarnings())
    files = [files_in(Path(plan["ref"])) for plan in plans.values()]
    starts = dict(zip(plans, start_in_turn(list(plans.values()), files, args.starts, SilentWithWarnings()), strict=True))
    with workers(plans) as arms:
        measure(list(arms.values()), args.rounds, SilentWithWarnings())
        arms = well(arms)
        for name, arm in arms.items():
            arm.starts, arm.missing = starts[name]
            arm.about = ask(arm, {"do": "about"}) if name in OURS else {}
        kl = divergences(arms, model, args.windows) if args.windows else {}
    found = document(list(arms.values()), {**settings, "rounds": args.rounds}, before, roof)
    rows = [
        differences(*peers[name], arm, kl.get(name)) if name in peers else ours(name, arm, kl.get(name))
        for name, arm in arms.items()
    ]
    for row, record in zip(rows, found["arms"], strict=True):
        told = dict(zip(HEADERS, row, strict=True))
        record |= {"ref": row[0], "name": row[0], "quantization": None, "head": told["head"], "differences": told}
    if args.save:
        save({**found, "kl": kl}, args.save)
    report(arms, list(peers), found, rows)


def files_in(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def report(arms: Mapping[str, Arm], peers: list[str], found: dict[str, Any], rows: list[list[str]]) -> None:
    """The figures, the ratios to each peer, and what differs."""
    settings, rivals = found["settings"], [name for name in peers if name in arms]
    shown = [f"prefill@{n}" for n in settings["prompt_tokens"]] + [f"decode@{depth}" for depth in settings["depths"]]
    others = ["start_cold", f"first_token@{settings['prompt_tokens'][0]}", "rss"]
    show(["arm", *shown, *others], [[a["name"], *(cell(a, metric) for metric in (*shown, *others))] for a in found["arms"]])
    print("\n(%) is the share of what this machine allows.\n")
    ratios = [[name, *(" / ".join(ratio(arm, arms[rival], m) for m in shown) for rival in rivals)] for name, arm in arms.items()]
    show(["arm", *(f"times {rival}" for rival in rivals)], ratios)
    print("\nMedians of per-round ratios: " + " / ".join(shown) + ".\n")
    show(HEADERS, rows)
    print(f"\n{settings['rounds']} interleaved rounds. {machine_line(found)}")
    if found["roofline"]:
        print(f"\nThis machine: {roof_line(found)}.")


def cell(record: Mapping[str, Any], metric: str) -> str:
    if metric not in record["metrics"]:
        return "-"
    share = record["limits"].get(metric)
    return digits(record["metrics"][metric]["median"]) + (f" ({share['share']:.0%})" if share else "")


def ratio(arm: Arm, other: Arm, metric: str) -> str:
    found = None if arm is other else paired_ratio(samples_of(arm)[metric], samples_of(other)[metric])
    return f"{found['median']:.2f}" if found else "1"


class SilentWithWarnings:
    def note(self, message: str, **facts: object) -> None: ...

    def warn(self, message: str, **facts: object) -> None:
        print(message.format(**facts), file=sys.stderr)

    def progress(self, step: str, done: int, total: int, unit: str = "") -> None:
        print(f"round {done} of {total}", file=sys.stderr)


if __name__ == "__main__":
    main()
