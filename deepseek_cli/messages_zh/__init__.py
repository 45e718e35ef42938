"""English template → 中文, by area. Names in braces stay as they are; `python -m tests.cli.templates` lists what is missing."""

from __future__ import annotations

from deepseek_cli.messages_zh.compressing import COMPRESSING
from deepseek_cli.messages_zh.deploying import DEPLOYING
from deepseek_cli.messages_zh.making import MAKING
from deepseek_cli.messages_zh.measuring import MEASURING
from deepseek_cli.messages_zh.models import MODELS
from deepseek_cli.messages_zh.pulling import PULLING
from deepseek_cli.messages_zh.serving import SERVING
from deepseek_cli.messages_zh.shell import SHELL
from deepseek_cli.messages_zh.tuning import TUNING

AREAS = (SHELL, MODELS, PULLING, MAKING, DEPLOYING, MEASURING, SERVING, TUNING, COMPRESSING)
MESSAGES: dict[str, str] = {**SHELL, **MODELS, **PULLING, **MAKING, **DEPLOYING, **MEASURING, **SERVING, **TUNING, **COMPRESSING}
