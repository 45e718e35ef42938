"""Every error a user can meet, and the exit code each one ends with.

    DeepseekError
    ├── AnswerIsNo        1   a gate, a verification or a check said no
    ├── UsageError        2   the command line or the configuration is wrong
    ├── ModelError        3
    │   ├── ModelNotFound
    │   ├── ModelUnsupported
    │   └── ModelCorrupt
    ├── ResourceError     4
    │   ├── DiskFull
    │   ├── MemoryShort
    │   └── MissingExtra
    ├── NetworkError      5
    └── Interrupted     130

Anything else that escapes is a bug of ours and ends with 70. A message is an English template with named
fields; the sink translates the template and then fills the fields, so that file names stay as they are.
"""

from __future__ import annotations

import re


class DeepseekError(Exception):
    """`message` names the thing that is wrong, `hint` says what to do; both are `str.format` templates over `facts`."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message, self.hint, self.facts = message, hint, facts

    @property
    def code(self) -> str:
        """The stable, untranslated name that `--json` carries: the class's name in kebab case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()

    def __str__(self) -> str:
        text = fill(self.message, self.facts)
        return f"{text} {fill(self.hint, self.facts)}" if self.hint else text


class AnswerIsNo(DeepseekError):
    exit_code = 1


class UsageError(DeepseekError):
    exit_code = 2


class ModelError(DeepseekError):
    exit_code = 3


class ModelNotFound(ModelError):
    pass


class ModelUnsupported(ModelError):
    pass


class ModelCorrupt(ModelError):
    pass


class ResourceError(DeepseekError):
    exit_code = 4


class DiskFull(ResourceError):
    pass


class MemoryShort(ResourceError):
    pass


class MissingExtra(ResourceError):
    pass


class NetworkError(DeepseekError):
    exit_code = 5


class Interrupted(DeepseekError):
    exit_code = 130


def fill(template: str, facts: dict[str, object]) -> str:
    """Fill a template; one without facts is text as it stands, braces and all."""
    return template.format(**facts) if facts else template
