"""deepseek run"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._offer import subject_or_made
from deepseek_cli.commands._optimize import outcome, plan_run
from deepseek_cli.commands._subject import store_of
from deepseek_cli.errors import UsageError
from deepseek_cli.ops import SparseSpec
from deepseek_cli.output import Result
from deepseek_cli.sources import names_a_model
from deepseek_cli.spec import Size, option, packed_bytes

if TYPE_CHECKING:
    from deepseek_cli.runtime.chat_session import Chat
    from deepseek_cli.runtime.machine_cache import MachineCache

ARGUMENTS = ("model?", "prompt?")
COMMON = ("threads", "context", "memory", "seed", "device", "memory_profile", "optimize_memory")


@dataclass(frozen=True, slots=True)
class RunSpec:
    max_tokens: int = option(256, help="most tokens to generate")
    temperature: float = option(0.0, help="0 is greedy")
    top_k: int = option(0, help="only the K likeliest tokens; 0 is all")
    top_p: float = option(1.0, help="only the likeliest tokens that sum to this")
    min_p: float = option(0.0, help="only tokens at least this likely, relative to the likeliest")
    repetition_penalty: float = option(1.0, help="above 1, seen tokens become less likely")
    stop: tuple[str, ...] = option((), help="end at this text", metavar="TEXT")
    system: str | None = option(None, help="a system message", metavar="TEXT")
    raw: bool = option(False, help="continue the prompt as it is, without the chat template")
    draft: bool = option(False, help="guess ahead, from the text or the model's own prediction; each token is still its choice")
    sparse_attention: str | None = option(
        None, help="attend to N keys a query, to the most active heads: tokens=N,heads=SHARE", metavar="tokens=N"
    )
    fast_prefill: bool = option(False, help="read prompts through a second, int8 form of the weights: faster, and less exact")
    packed_cache: Size | None = option(
        None, help="keep weights packed for this machine, in so many bytes: less memory; --fast-prefill keeps 10GB", rare=True
    )
    think: Literal["auto", "on", "off"] = option("auto", help="thinking before the answer, of models that can switch", rare=True)


SPEC = RunSpec
EXAMPLES = [
    'deepseek run smollm2@int4-g32-balanced+cpu "What is the capital of France?"',
    "echo 'Once upon a time' | deepseek run smollm2 --raw --max-tokens 50",
    "deepseek run smollm2",
]


def run(call: Call) -> Result:
    spec: RunSpec = call.spec
    sparse = SparseSpec.parse(spec.sparse_attention) if spec.sparse_attention else None
    prompt, call.arguments["model"] = _prompt(call)
    model = subject_or_made(call)
    from deepseek_cli.runtime.chat_session import open_chat
    from deepseek_cli.runtime.sampling import Sampling

    sampling = Sampling(spec.repetition_penalty, spec.temperature, spec.top_k, spec.top_p, spec.min_p, call.common.seed)
    common = call.common
    optimized = plan_run(call, model)
    call.reporter.step("load")
    chat = open_chat(
        model,
        sampling,
        spec.max_tokens,
        spec.stop,
        spec.system,
        spec.raw,
        think={"on": True, "off": False}.get(spec.think),
        context=common.context,
        threads=common.threads,
        device=common.device,
        drafts=spec.draft,
        sparse=sparse,
        plan=optimized.plan if optimized else None,
        cache=_cache(call),
        fast_prefill=spec.fast_prefill,
    )
    said = _converse(call, chat) if prompt is None else {"text": _answer(call, chat, prompt), **chat.last_record()}
    return Result({**said, **outcome(call, optimized, chat.session)}, quiet="")


def _cache(call: Call) -> MachineCache | None:
    """Where packed weights lie; none for a run whose memory is capped or looked into."""
    from deepseek_cli.runtime.machine_cache import MachineCache

    most, common = packed_bytes(call.spec.packed_cache, call.spec.fast_prefill), call.common
    watched = not call.spec.fast_prefill and (common.memory or common.memory_profile)
    return MachineCache(store_of(call).packed, most, call.reporter) if most and not watched else None


def _prompt(call: Call) -> tuple[str | None, str | None]:
    """The prompt and MODEL; a prompt of None starts a conversation.

    Where deepseek.toml names the model, one argument that names no other is the prompt. A prompt may come through a pipe.
    """
    model, prompt = call.arguments.get("model"), call.arguments.get("prompt")
    if model and prompt is None and call.settings.model and not names_a_model(model, store_of(call)):
        model, prompt = None, model
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().rstrip("\n")
        if not prompt:
            raise UsageError("The prompt on standard input is empty.", hint='Give one: deepseek run MODEL "PROMPT"')
    return prompt, model


def _answer(call: Call, chat: Chat, prompt: str) -> str:
    """The answer goes to stdout, the thinking before it to stderr."""
    text = ""
    call.reporter.step("prefill", chat.session)
    for piece in chat.ask(prompt, call.reporter.stream_aside):
        if piece and not text and chat.splitter.thinking:
            call.reporter.stream_aside("\n\n")
        text += piece
        call.reporter.step("decode")
        call.reporter.stream(piece)
    call.reporter.stream("\n")
    if chat.still_thinking and chat.last.finish != "stop":
        call.reporter.warn(
            "The answer ended in the model's thinking, after {count} tokens. Allow more with --max-tokens or --context.",
            count=chat.last.timing.new,
        )
    if call.common.verbose:
        timing = chat.last.timing
        call.reporter.note(
            "{prompt} tokens at {prefill:.0f} tokens/s, then {new} at {decode:.1f} tokens/s.",
            prompt=timing.prompt,
            prefill=timing.prefill_rate,
            new=timing.new,
            decode=timing.decode_rate,
        )
        if seen := getattr(chat.session, "attended", None):
            call.reporter.note(
                "Queries attended to {some:.0f} of {all:.0f} keys, in the mean over heads and layers.",
                some=seen.mean,
                all=seen.dense,
            )
        if drafted := chat.last.drafted:
            call.reporter.note("{accepted} of {drafted} guesses were right.", accepted=chat.last.accepted, drafted=drafted)
    return text


def _converse(call: Call, chat: Chat) -> dict[str, Any]:
    """Turn after turn on a terminal, until an empty line or the end of input."""
    turns: list[dict[str, Any]] = []
    call.reporter.note("An empty line ends the conversation.")
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            break
        if not prompt.strip():
            break
        turns.append({"prompt": prompt, "text": _answer(call, chat, prompt), "thinking": chat.splitter.thinking})
    return {"turns": turns}
