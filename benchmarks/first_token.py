"""From a cold process to the first token: `deepseek run` as a user types it, beside Python programs over onnxruntime-genai and
OpenVINO GenAI, on one quantized model. Files are in the page cache, and our weights are packed, as from the second run on.

    python benchmarks/first_token.py                # the whole process
    python benchmarks/first_token.py --parts        # and where ours goes, in processor time
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import DEEPSEEK, PEERS, arguments, interleave, median, run, show, spread
from speed import bundle, subject

NAME = "int4-g32, head int8"
PROMPT = "Hi"
OURS = ("--raw", "--max-tokens", 1)  # onnxruntime-genai applies no chat template by itself
GENAI = """
import sys
import onnxruntime_genai as og
model = og.Model(sys.argv[1])
tokenizer = og.Tokenizer(model)
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=256)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode(sys.argv[2]))
generator.generate_next_token()
print(tokenizer.decode(generator.get_next_tokens()))
"""
OPENVINO = """
import sys
import openvino_genai
pipeline = openvino_genai.LLMPipeline(sys.argv[1], "CPU")
print(pipeline.generate(sys.argv[2], max_new_tokens=1, apply_chat_template=False))
"""
PARTS = """
import sys, time
from pathlib import Path
from deepseek_cli.handle import open_any
from deepseek_cli.store import Store
marks = [time.process_time()]
def mark(): marks.append(time.process_time())
import deepseek_cli.main, deepseek_cli.commands.run, deepseek_cli.runtime.chat_session, deepseek_cli.runtime.packed_session
mark()
store = Store(Path(sys.argv[3]))
model = open_any(sys.argv[1], store)
mark()
tokenizer = deepseek_cli.runtime.chat_session.open_tokenizer(model.root)
mark()
cache = deepseek_cli.runtime.machine_cache.MachineCache(store.packed, 10**10)
session = deepseek_cli.runtime.session.open_session(model, cache=cache)
mark()
tokens = tokenizer.encode(sys.argv[2], special=True)
session.feed(tokens)
mark()
print(*(1000 * (b - a) for a, b in zip([0, *marks], marks)))
"""
NAMES = ("Python", "imports", "open", "tokenizer", "load", "prefill")


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--parts", action="store_true")
    args = parser.parse_args()
    model = subject(args.work)
    path, vino = bundle(args.work, model, NAME), args.work / "first-token-openvino"
    if not vino.exists():
        source = path.parent / "model"
        run(*DEEPSEEK, "deploy", source, "--target", "openvino", "--verify", "structure", "-o", vino)
    base, openvino = (PEERS / name / "bin/python" for name in ("base", "ov"))
    arms = {
        "deepseek run": lambda: run(*DEEPSEEK, "run", path, PROMPT, *OURS),
        "deepseek run, packed": lambda: run(*DEEPSEEK, "run", path, PROMPT, *OURS, "--set", "packed_cache=10GB"),
        "onnxruntime-genai": lambda: run(base, "-c", GENAI, path, PROMPT),
        "OpenVINO GenAI": lambda: run(openvino, "-c", OPENVINO, vino, PROMPT),
    }
    interleave(arms, 2)  # the second run packs
    seen = interleave(arms, args.rounds)
    ours = seen["deepseek run"]
    rows = []
    for name, runs in seen.items():
        ratios = [median([a.seconds / b.seconds for a, b in zip(ours, runs, strict=True)])]
        ratios.append(median([a.cpu_seconds / b.cpu_seconds for a, b in zip(ours, runs, strict=True)]))
        peak = median([r.peak_mb for r in runs])
        times = [spread([getattr(r, field) for r in runs]) for field in ("seconds", "cpu_seconds")]
        rows.append([name, *times, f"{peak:.0f}", *(f"{ratio:.2f}" for ratio in ratios)])
    show(["whole process", "s", "processor s", "peak MB", "ours over it", "in processor time"], rows)
    if args.parts:
        home = Path(args.work / "home")
        parts = [list(map(float, run(sys.executable, "-c", PARTS, path, PROMPT, home).out.split())) for _ in range(args.rounds)]
        print()
        show(NAMES, [[f"{median(part):.0f} ms" for part in zip(*parts, strict=True)]])


if __name__ == "__main__":
    main()
