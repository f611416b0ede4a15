"""Tokenizers and chat templates of the forms that models call tools in."""

from tests.generate.thinkers import CHANNELS, HARMONY, TAGS, TURNS, thinker

CALL_TAGS = ("<tool_call>", "</tool_call>")
LLAMA = ("<|python_tag|>", "<|eot_id|>", "<|eom_id|>", "<|im_start|>", "<|im_end|>")
MISTRAL = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[INST]", "[/INST]")

_BEGIN = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
)
_END = (
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_NAME, _ARGUMENTS = "{{ c.function.name }}", "{{ c.function.arguments | tojson }}"

JSON_TAGS = (
    f'{_BEGIN}\n<tool_call>\n{{"name": "{_NAME}", "arguments": {_ARGUMENTS}}}\n</tool_call>{_END}'
)
THINKING = JSON_TAGS.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
XML_TAGS = (
    f"{_BEGIN}\n<tool_call>\n<function={_NAME}>\n{{% for k, v in c.function.arguments | items %}}"
    "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}"
    f"</function>\n</tool_call>{_END}"
)
MISTRAL_LIST = f'{_BEGIN}[TOOL_CALLS][{{"name": "{_NAME}", "arguments": {_ARGUMENTS}}}]{_END}'
MISTRAL_ARGS = f"{_BEGIN}[TOOL_CALLS]{_NAME}[ARGS]{_ARGUMENTS}{_END}"
LLAMA_JSON = (
    '{# Answer with {"name": function name, "parameters": dictionary of argument name and its value}. #}'
    f'{_BEGIN}{{"name": "{_NAME}", "parameters": {_ARGUMENTS}}}{_END}'
)
OTHER = f"{_BEGIN}<tool_call>{_NAME}\n<arg_key>k</arg_key>{_END}"

CALLERS = {
    "JSON in tags, no tokens": thinker(JSON_TAGS, TURNS),
    "JSON in tags, tokens of the text": thinker(THINKING, TURNS, (*TAGS, *CALL_TAGS)),
    "JSON in tags, special tokens": thinker(JSON_TAGS, (*TURNS, *CALL_TAGS)),
    "XML": thinker(XML_TAGS, TURNS, CALL_TAGS),
    "Mistral's list": thinker(MISTRAL_LIST, (*TURNS, "[TOOL_CALLS]")),
    "Mistral's arguments": thinker(MISTRAL_ARGS, (*TURNS, *MISTRAL)),
    "Llama": thinker(LLAMA_JSON, LLAMA),
    "channels": thinker(CHANNELS, (*HARMONY, "<|constrain|>")),
    "another": thinker(OTHER, TURNS, CALL_TAGS),
}
