"""A conversation: messages through the model's template into a session, whose KV cache keeps what both turns share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from deepseek_cli.errors import UsageError
from deepseek_cli.handle import Bundle, ModelHandle
from deepseek_cli.ops import SparseSpec
from deepseek_cli.runtime.generate import Generation, generate_text
from deepseek_cli.runtime.machine_cache import MachineCache
from deepseek_cli.runtime.memory_plan import MemoryPlan
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.runtime.session import Session, check_room, open_session
from deepseek_cli.runtime.speculate import Drafter
from deepseek_cli.runtime.thinking import Splitter, opens_thinking, split
from deepseek_cli.runtime.tokenizer import Tokenizer, open_tokenizer


@dataclass
class Chat:
    """With `raw` a prompt is continued as it is, and nothing is remembered.

    `think` switches the thinking of models that can do without it; None leaves that to their template.
    """

    session: Session
    tokenizer: Tokenizer
    sampling: Sampling
    most: int
    stop: Sequence[str]
    raw: bool
    think: bool | None = None
    drafter: Drafter | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    fed: list[int] = field(default_factory=list)  # tokens in the session's cache
    last: Generation = field(default_factory=Generation)
    splitter: Splitter = field(default_factory=Splitter)  # of the last answer

    def ask(self, prompt: str, thinking: Callable[[str], object] | None = None) -> Iterator[str]:
        """Pieces of the answer; those of the thinking before it go to `thinking`, and are not remembered.

        Raises UsageError when there is nothing to continue, or the conversation does not fit in the context.
        """
        asked = [*self.messages, {"role": "user", "content": prompt}]
        text = prompt if self.raw else self.tokenizer.chat(asked, **thinking_variables(self.think))
        tokens = self.tokenizer.encode(text, special=True) if self.raw else self.tokenizer.encode_chat(text)
        if not tokens:
            raise UsageError("The prompt is empty.", hint="Write something to continue.")
        check_room(0, len(tokens) + 1, self.session.context)
        shared = shared_prefix(tokens[:-1], self.fed)  # the last token is fed again, for its logits
        self.session.rewind(shared)
        self.fed = self.fed[:shared]  # all that holds if this turn is broken off
        self.splitter = Splitter(not self.raw and opens_thinking(text))
        pieces = []
        for thought, piece in self._parts(tokens[shared:]):
            if thought and thinking:
                thinking(thought)
            pieces.append(piece)
            yield piece
        self.fed = (tokens + self.last.tokens)[: self.session.position]
        if not self.raw:
            self.messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]  # a turn that failed is not remembered

    def _parts(self, tokens: list[int]) -> Iterator[tuple[str, str]]:
        """Pieces of thinking and of the answer; raw text is not looked into."""
        texts = self._texts(tokens)
        return (("", text) for text in texts) if self.raw else split(texts, self.splitter)

    def _texts(self, tokens: list[int]) -> Iterator[str]:
        texts = generate_text(self.session, self.tokenizer, tokens, self.most, self.sampling, self.stop, self.drafter)
        for text, generation in texts:
            self.last = generation
            yield text

    @property
    def still_thinking(self) -> bool:
        """Whether the last answer ended before its thinking did."""
        return self.splitter.inside

    def last_record(self) -> dict[str, Any]:
        """Thinking, counts and rates of the last answer, for `--json`."""
        timing = self.last.timing
        return {
            "thinking": self.splitter.thinking,
            "finish": self.last.finish,
            "prompt_tokens": timing.prompt,
            "new_tokens": timing.new,
            "drafted_tokens": self.last.drafted,
            "accepted_tokens": self.last.accepted,
            "prefill_tokens_per_s": timing.prefill_rate,
            "decode_tokens_per_s": timing.decode_rate,
        }


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def thinking_variables(think: bool | None) -> dict[str, bool]:
    """What templates call the switch: DeepSeek's own and others'."""
    return {} if think is None else {"thinking": think, "enable_thinking": think}


def _check_switch(tokenizer: Tokenizer) -> None:
    question = [{"role": "user", "content": "?"}]
    on, off = (tokenizer.chat(question, **thinking_variables(think)) for think in (True, False))
    if on == off:
        raise UsageError(
            "The model's chat template has no switch for thinking.", hint="Leave think at auto: the model decides by itself."
        )


def open_chat(
    model: ModelHandle | Bundle,
    sampling: Sampling,
    most: int,
    stop: Sequence[str] = (),
    system: str | None = None,
    raw: bool = False,
    *,
    think: bool | None = None,
    context: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    drafts: bool = False,
    sparse: SparseSpec | None = None,
    plan: MemoryPlan | None = None,
    cache: MachineCache | None = None,
    fast_prefill: bool = False,
) -> Chat:
    """Raises UsageError where `think` is asked of a model that has no switch for it."""
    with ThreadPoolExecutor(1) as aside:  # reading it takes half as long as loading the session
        reading = aside.submit(open_tokenizer, model.root)
        session = open_session(
            model,
            context=context,
            threads=threads,
            device=device,
            drafts=drafts,
            sparse=sparse,
            plan=plan,
            cache=cache,
            fast_prefill=fast_prefill,
        )
        tokenizer = reading.result()
    if think is not None and not raw:
        _check_switch(tokenizer)
    messages = [{"role": "system", "content": system}] if system else []
    return Chat(
        session, tokenizer, sampling, most, stop, raw, think=think, drafter=Drafter() if drafts else None, messages=messages
    )
