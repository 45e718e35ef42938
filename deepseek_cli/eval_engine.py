"""`eval`: any model or bundle against any other, in the runtime it runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseek_cli.errors import ModelNotFound, UsageError
from deepseek_cli.evaluate import (
    WINDOW,
    HandlePredictor,
    Predictor,
    SessionPredictor,
    check_vocabulary,
    compare,
    cut_windows,
    texts_of,
)
from deepseek_cli.handle import Bundle, ModelHandle, open_any
from deepseek_cli.reporter import SILENT, Reporter
from deepseek_cli.runtime.session import open_session
from deepseek_cli.runtime.tokenizer import open_tokenizer
from deepseek_cli.store import Store


def evaluate(
    candidate: ModelHandle | Bundle,
    against: str | None,
    store: Store,
    text: str | None = None,
    windows: int = 16,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """The report card of `candidate` (see `evaluate.Score`); a bundle runs in its own runtime, activations as it runs.

    Raises UsageError when nothing says what to compare with, ModelNotFound when that is gone.
    """
    reference = open_any(against or source_of(candidate), store)
    check_vocabulary((reference.config.vocabulary, candidate.config.vocabulary))
    cut = cut_windows(open_tokenizer(reference.root), texts_of(text), windows)
    models = [predictor(model, cut.tokens, threads, reporter) for model in (reference, candidate)]
    return {"against": reference.name, **compare(models[0], models[1], cut, reporter)}


def source_of(candidate: ModelHandle | Bundle) -> str:
    """The unquantized model at the start of the lineage.

    Raises UsageError for a model that came from nowhere.
    """
    source = candidate.manifest.source
    path = source.get("original_path") or source.get("parent_path")
    if not candidate.manifest.parent or not path:
        raise UsageError(
            "{name} was not made from another model here.", hint="Name a reference: --against MODEL", name=candidate.name
        )
    if not Path(path).exists():
        raise ModelNotFound(
            "{name} was made from {path}, which is gone.",
            hint="Name a reference: --against MODEL",
            name=candidate.name,
            path=path,
        )
    return str(path)


def predictor(model: ModelHandle | Bundle, tokens: Any, threads: int | None, reporter: Reporter) -> Predictor:
    if isinstance(model, Bundle):
        return SessionPredictor(open_session(model, context=min(WINDOW, model.config.context), threads=threads), tokens)
    layers = model.config.layers
    return HandlePredictor(model, tokens, lambda done: reporter.progress("evaluate", done, layers))
