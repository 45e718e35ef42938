"""DeepSeek-CLI: take a language model from a hub to the hardware it must run on."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "open_model"]


def __getattr__(name: str) -> Any:
    """Load the Python interface on first use, so that the command line starts without torch."""
    if name == "open_model":
        from deepseek_cli.api import open_model

        return open_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
