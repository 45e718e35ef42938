"""A model that is not on this machine yet: fetched, quantized and deployed where somebody agrees to that."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deepseek_cli.commands._call import Call
from deepseek_cli.commands._subject import store_of, subject
from deepseek_cli.errors import ModelNotFound
from deepseek_cli.sources import canonical

if TYPE_CHECKING:
    from deepseek_cli.handle import Bundle, ModelHandle


def subject_or_made(call: Call) -> ModelHandle | Bundle:
    """The model or bundle; one that a hub has can be fetched, quantized and deployed first, where somebody agrees."""
    try:
        return subject(call, "any")
    except ModelNotFound:
        ref = canonical(str(call.model))
        if not ref.startswith("hf:"):
            raise
    from deepseek_cli.commands.deploy import made
    from deepseek_cli.deploy.spec import DeploySpec

    spec = DeploySpec(int4=True, pull=True)
    if not (call.common.yes or _agrees(call, ref)):
        raise ModelNotFound(
            "{ref} is not on this machine.", hint="Fetch, quantize and deploy it: deepseek deploy {ref} --int4 --pull", ref=ref
        )
    from deepseek_cli.handle import open_any

    return open_any(str(made(call, spec).path), store_of(call))


def _agrees(call: Call, ref: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    call.reporter.note("{ref} is not on this machine. Fetch, quantize (int4) and deploy it now? [y/N]", ref=ref)
    return sys.stdin.readline().strip().lower() in ("y", "yes", "是")
