"""The chat templates of a Hugging Face directory.

    chat_template.jinja                    the default
    additional_chat_templates/NAME.jinja   further ones: "tool_use" is for chats with tools
    tokenizer_config.json "chat_template"  the default, or several with their names; read where there are no such files
    chat_template.json "chat_template"     the same, as older versions wrote it; read last

Source: transformers 5, `from_pretrained` and `get_chat_template` of tokenization_utils_base.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xplm.errors import TokenizerError
from xplm.text.json_files import read_object, read_optional_text

DEFAULT = "default"
TEMPLATE_FOLDER = "additional_chat_templates"


def read_templates(directory: Path, config: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The chat templates of a directory.

    Args:
        directory: the directory.
        config: its tokenizer_config.json.

    Returns:
        The source of the default, or None, and those of the others by name.

    Raises:
        TokenizerError: a file is malformed.
    """
    paths = {DEFAULT: directory / "chat_template.jinja"}
    paths |= {path.stem: path for path in template_files(directory)}
    sources = {name: read_optional_text(path) for name, path in paths.items()}
    templates = {name: source for name, source in sources.items() if source is not None}
    if not templates:
        templates = _configured(config.get("chat_template"), directory / "tokenizer_config.json")
    if not templates:
        legacy = directory / "chat_template.json"
        templates = _configured(read_object(legacy).get("chat_template"), legacy)
    return templates.pop(DEFAULT, None), templates


def template_files(directory: Path) -> list[Path]:
    """The files of named chat templates in a directory, sorted."""
    return sorted((directory / TEMPLATE_FOLDER).glob("*.jinja"))


def to_config(default: str | None, named: Mapping[str, str]) -> Any:
    """The value of "chat_template" in tokenizer_config.json; None where there is no template."""
    if not named:
        return default
    templates = ({} if default is None else {DEFAULT: default}) | dict(named)
    return [{"name": name, "template": source} for name, source in templates.items()]


def _configured(value: Any, path: Path) -> dict[str, str]:
    entries = value if isinstance(value, list) else [{"name": DEFAULT, "template": value}]
    if isinstance(value, dict):
        entries = [{"name": name, "template": source} for name, source in value.items()]
    if not all(map(_is_named_template, entries)):
        raise TokenizerError(
            'chat_template must be text, or a list of {"name": text, "template": text}, '
            f"got {value!r:.80} in {path}: correct it"
        )
    return {e["name"]: e["template"] for e in entries if e["template"] is not None}


def _is_named_template(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("template"), str | None)
        and "template" in value
    )
