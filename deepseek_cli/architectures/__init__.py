"""Model families by the `model_type` of their config.json. Others come through the entry point group `deepseek.architectures`."""

from __future__ import annotations

from deepseek_cli import plugins
from deepseek_cli.errors import ModelUnsupported
from deepseek_cli.ops import Architecture

ARCHITECTURES = {
    "llama": "deepseek_cli.architectures.llama:LLAMA",
    "qwen2": "deepseek_cli.architectures.llama:QWEN2",
    "qwen3": "deepseek_cli.architectures.llama:QWEN3",
}


def find_architecture(model_type: str) -> Architecture:
    """The description of a family.

    Raises ModelUnsupported, which lists the known ones.
    """
    path = ARCHITECTURES.get(model_type)
    found = plugins.load(path) if path else plugins.find("deepseek.architectures", model_type)
    if found is None:
        raise ModelUnsupported(
            "The architecture {name} is not supported.",
            hint="Supported are {known}; a plug-in can add more.",
            name=model_type,
            known=", ".join(ARCHITECTURES),
        )
    return found
