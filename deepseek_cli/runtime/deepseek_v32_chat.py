"""The chat template of DeepSeek-V3.2, which ships a program in its place.

Each user turn hands over to the assistant, with thinking open after the last one where `thinking` is set, and closed
everywhere else: thinking of earlier turns is dropped. A developer's message is a user turn that may bring tools of its own.

Tools given for the whole conversation are told at its beginning, behind the system message. The model calls them in DSML,
an XML whose tags carry a special token; results go back in one block, in the order of the calls. The arguments of a call
are a mapping, as in other templates: Jinja reads no JSON text.
"""

MODEL_TYPE = "deepseek_v32"
TEMPLATE = """\
{%- macro explain(tools) %}
    {{- "\\n\\n## Tools\\n" }}
You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<｜DSML｜function_calls>" block like the following as part of your reply to the user:
<｜DSML｜function_calls>
<｜DSML｜invoke name="$FUNCTION_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$FUNCTION_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use \
JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types \
(numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. \
Here is an example:

<｜DSML｜function_calls>
...
</｜DSML｜function_calls>

<function_results>
...
</function_results>

<think>...thinking about results</think>

Here are the functions available in JSONSchema format:
<functions>
    {%- for tool in tools %}
        {{- "\\n" + (tool.function | default(tool) | tojson) }}
    {%- endfor %}
    {{- "\\n</functions>\\n" }}
{%- endmacro %}
{%- macro invoke(call) %}
    {%- if call.arguments is not mapping %}
        {{- raise_exception("the arguments of a tool call are no mapping: " + call.name) }}
    {%- endif %}
    {{- '<｜DSML｜invoke name="' + call.name + '">' }}
    {%- for name, value in call.arguments.items() %}
        {{- '\\n<｜DSML｜parameter name="' + name + '" string="' + ("true" if value is string else "false") + '">' }}
        {{- value if value is string else value | tojson }}
        {{- "</｜DSML｜parameter>" }}
    {%- endfor %}
    {{- "\\n</｜DSML｜invoke>\\n" }}
{%- endmacro %}
{%- set users = messages | selectattr("role", "in", ["user", "developer"]) | list | length %}
{%- set turn = namespace(users=0, awaited=0) %}
{{- bos_token }}
{%- if tools and messages[0].role != "system" %}{{ explain(tools) }}{% endif %}
{%- for message in messages %}
    {%- set asks = message.role in ["user", "developer"] %}
    {%- if asks %}{% set turn.users = turn.users + 1 %}{% endif %}
    {%- set thinks = thinking and turn.users == users %}
    {%- set think = ("<think>" if thinks else "</think>") if add_generation_prompt or not loop.last else "" %}
    {%- if turn.awaited and message.role != "tool" %}
        {{- raise_exception("a tool call has no result") }}
    {%- endif %}
    {%- if message.role == "system" %}
        {%- set told = message.tools or (tools if loop.first) %}
        {{- message.content }}{{ explain(told) if told }}
    {%- elif asks %}
        {{- "<｜User｜>" }}
        {%- if message.role == "developer" %}
            {{- explain(message.tools) if message.tools }}{{ "\\n\\n# The user's message is: " }}
        {%- endif %}
        {{- message.content }}{{ "<｜Assistant｜>" + think if think }}
    {%- elif message.role == "assistant" %}
        {%- if thinks %}
            {{- message.reasoning_content or "" }}{{ "</think>" }}
        {%- endif %}
        {{- message.content or "" }}
        {%- if message.tool_calls %}
            {%- set turn.awaited = message.tool_calls | length %}
            {{- "\\n\\n<｜DSML｜function_calls>\\n" }}
            {%- for call in message.tool_calls %}{{ invoke(call.function) }}{% endfor %}
            {{- "</｜DSML｜function_calls>" }}
        {%- endif %}
        {{- eos_token }}
    {%- elif message.role == "tool" %}
        {%- if not turn.awaited %}
            {{- raise_exception("a tool's result follows no call") }}
        {%- endif %}
        {%- set turn.awaited = turn.awaited - 1 %}
        {{- "\\n\\n<function_results>" if loop.previtem.role != "tool" }}
        {{- "\\n<result>" + message.content + "</result>" }}
        {%- if not turn.awaited %}
            {{- "\\n</function_results>" }}{{ "\\n\\n" + think if think }}
        {%- endif %}
    {%- else %}
        {{- raise_exception("it knows no role " + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if turn.awaited and messages[-1].role == "tool" %}
    {{- raise_exception("a tool call has no result") }}
{%- endif %}
"""
