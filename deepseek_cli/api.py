"""The same verbs in Python: `open_model(ref).quantize(int4=True).deploy(target="cpu").generate("Hello")`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_cli.compress.engine import compress
from deepseek_cli.compress.page import write_page
from deepseek_cli.compress.spec import CompressSpec
from deepseek_cli.deploy.engine import deploy
from deepseek_cli.deploy.spec import DeploySpec
from deepseek_cli.eval_engine import evaluate
from deepseek_cli.handle import Bundle, ModelHandle, open_any
from deepseek_cli.handle import open_model as open_handle
from deepseek_cli.i18n import language, say
from deepseek_cli.quantize.engine import quantize
from deepseek_cli.quantize.spec import QuantizeSpec
from deepseek_cli.quantize.spread import find_engine
from deepseek_cli.runtime.chat_session import open_chat
from deepseek_cli.runtime.sampling import Sampling
from deepseek_cli.settings import read_settings
from deepseek_cli.sources.pull import pull
from deepseek_cli.sources.pull_spec import PullSpec
from deepseek_cli.store import Store


@dataclass(frozen=True, slots=True)
class Model:
    """An opened model or bundle, and the store that results go into. Options are the fields of the verbs' specs."""

    handle: ModelHandle | Bundle
    store: Store

    @property
    def path(self) -> Path:
        return self.handle.root

    def quantize(self, output: Path | None = None, *, engine: str = "local", address: str | None = None, **options: Any) -> Model:
        """`engine` "ray" rounds on the Ray cluster at `address`, by default the one that Ray finds; the result is the same."""
        handle, spec = open_handle(str(self.path), self.store), QuantizeSpec(**options)
        done = quantize(handle, spec, self.store, output, agreed=True, engine=find_engine(engine, address))
        return open_model(done.path, self.store)

    def compress(self, output: Path | None = None, **options: Any) -> Model:
        handle, spec = open_handle(str(self.path), self.store), CompressSpec(**options)
        done = compress(handle, spec, self.store, output, agreed=True)
        if spec.html:
            write_page(Path(spec.html), done, handle, self.store, spec.fit, say, language())
        return open_model(done.result.path, self.store)

    def deploy(self, output: Path | None = None, **options: Any) -> Model:
        done = deploy(open_handle(str(self.path), self.store), DeploySpec(**options), self.store, output)
        return open_model(done.path, self.store)

    def generate(self, prompt: str, max_tokens: int = 256, raw: bool = False, **sampling: Any) -> Iterator[str]:
        """Pieces of the answer to `prompt`, without the thinking before it."""
        return open_chat(self.handle, Sampling(**sampling), max_tokens, raw=raw).ask(prompt)

    def evaluate(self, against: str | None = None) -> dict[str, Any]:
        """The report card against what this was made from, or another model."""
        return evaluate(self.handle, against, self.store)


def open_model(ref: str | Path, store: Store | None = None) -> Model:
    """Open what `ref` names, as the command line reads it; `pkg:` and hub references are pulled when they are not here yet."""
    store = store or Store(read_settings(Path.cwd(), os.environ, (), ()).home)
    if str(ref).startswith(("hf:", "pkg:")):
        return Model(open_any(str(pull(str(ref), PullSpec(), store).path), store), store)
    return Model(open_any(str(ref), store), store)
