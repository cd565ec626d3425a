"""Chat templates as checkpoints have them."""

from __future__ import annotations

from typing import Final

STARCODER2: Final = """\
{{bos_token}}{{'You are an exceptionally intelligent coding assistant that consistently delivers \
accurate and reliable responses to user instructions.\\n\\n'}}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{ raise_exception('System messages are not allowed in this template.') }}
    {%- else %}
        {%- if message['role'] == 'user' %}
{{'### Instruction\\n' + message['content'] + '\\n\\n'}}
        {%- else %}
{{'### Response\\n' + message['content'] + eos_token + '\\n\\n'}}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{{'### Response\\n'}}"""
"""That of starcoder2-15b-instruct."""

CHATML: Final = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

ZEPHYR: Final = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

LLAMA2: Final = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation"
    " roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + "
    "system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}"
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)

ALPACA: Final = """\
{% for message in messages if message.role != 'system' -%}
### {{ 'Instruction' if message.role == 'user' else 'Response' }}:
{{ message.content }}

{% endfor %}
{% if add_generation_prompt %}
### Response:
{% endif %}"""

WHATEVER: Final = """\
{%- set ns = namespace(count=0) -%}
{%- macro said(message) -%}
{{ message.role|upper }}{{ ' (' ~ message.name ~ ')' if message.name is defined else '' }}: \
{{ message.content|trim }}
{%- endmacro -%}
{{ strftime_now('%Y-%m') }} {{ tools is none }} {{ documents is none }} {{ pad_token is defined }}
{% for message in messages %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{% set ns.count = ns.count + 1 %}
[{{ ns.count }}] {{ said(message) }} {{ {'b': message.content|length, 'a': '<é>'}|tojson }}
{% if ns.count > 5 %}{% break %}{% endif %}
{% endfor %}
{{- '[' ~ (style|default('plain')) ~ '] ' if add_generation_prompt }}"""
"""What a template may use of its environment."""

ALL: Final = {
    "starcoder2": STARCODER2,
    "chatml": CHATML,
    "zephyr": ZEPHYR,
    "llama2": LLAMA2,
    "alpaca": ALPACA,
    "whatever": WHATEVER,
}
