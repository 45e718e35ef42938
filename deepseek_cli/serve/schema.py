"""What clients send, as OpenAI's API names it. An unknown field is refused: nothing asked for is silently left out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_ANSWERS = 16
MOST_STOPS = 16
MOST_PROMPTS = 64
MOST_MESSAGES = 4096
SEEDS = 1 << 63

Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=MOST_STOPS)]
Tokens = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(Strict):
    """What both kinds of completions share."""

    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=0, lt=1 << 20)] | None = 0
    min_p: Annotated[float, Field(ge=0, le=1)] | None = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = 1.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = 0.0
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,7}$")], Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-SEEDS, lt=SEEDS)] | None = None
    stop: Annotated[str, Field(min_length=1, max_length=256)] | Stop | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = 1
    user: str | None = None
    ignore_eos: bool | None = False  # an extension that vLLM and llama.cpp have too: answer until max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Function(Strict):
    name: str
    arguments: str


class ToolCall(Strict):
    id: str = ""
    type: Literal["function"] = "function"
    function: Function


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionTool(Strict):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: FunctionTool


class JsonSchema(Strict):
    name: str = "answer"
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class Format(Strict):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ChatRequest(Asked):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Format | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    think: bool | None = None  # an extension: switches the thinking of models that can do without it


class CompletionRequest(Asked):
    prompt: str | Tokens | Texts
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False


class EmbeddingsRequest(Strict):
    input: str | Tokens | Texts
    model: str = ""
    encoding_format: Literal["float", "base64"] | None = "float"
    user: str | None = None


class GenerateRequest(Strict):
    prompt: str
    max_length: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None


class Problem(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Refusal(BaseModel):
    error: Problem
