"""Templates of prompts: named fields in braces, and every other brace is text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping


def fill(template: str, fields: Mapping[str, object]) -> str:
    """Replace ``{name}`` by ``fields[name]``, once: braces in the values stay as they are.

    Braces around anything but a known name are text, so that a prompt may speak of ``{option_ID}``. The text
    ``{name}`` of a known name is written ``{{name}}``.
    """
    names = "|".join(map(re.escape, fields))

    def value(match: re.Match[str]) -> str:
        escaped, field = match.groups()
        return f"{{{escaped}}}" if escaped else str(fields[field])

    return re.sub(rf"\{{\{{({names})\}}\}}|\{{({names})\}}", value, template) if names else template


def literal(text: str, names: Iterable[str]) -> str:
    """``text`` as a part of a template with the fields ``names`` that shows it unchanged."""
    return re.sub(rf"\{{({'|'.join(map(re.escape, names))})\}}", r"{{\1}}", text)


def has_field(template: str, name: str) -> bool:
    """Whether :func:`fill` puts ``name`` somewhere."""
    without_literals = template.replace(f"{{{{{name}}}}}", "")
    return f"{{{name}}}" in without_literals
