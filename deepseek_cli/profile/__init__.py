"""Where the memory and the time of a model go: measured in a fresh process, shown in one offline page.

`DeepSeekProfiler` records any code of this process in the same page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek_cli.profile.recorder import DeepSeekProfiler

__all__ = ["DeepSeekProfiler"]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: `import deepseek_cli.profile` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deepseek_cli.profile import recorder

    return getattr(recorder, name)
