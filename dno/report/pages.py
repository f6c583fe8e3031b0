"""Pages that need nothing else: a template with its style and script, allowed by their checksums.

Everything that is not ours is escaped, and were anything ever not, the page's policy would still
let no script run but the page's own, and ask nobody for anything.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dno.runs.versions import versions

if TYPE_CHECKING:
    from jinja2 import Environment


def rendered(template: str, *, styles: Sequence[str], script: str = "", **values: Any) -> str:
    """A page.

    Args:
        template: which extends `base.html`.
        styles: files of css, in order.
        script: a file of JavaScript; none unless given.
        values: what the template shows.
    """
    from markupsafe import Markup

    style = "\n".join(map(_part, styles))
    code = _part(script) if script else ""
    scripts = f"'{_checksum(code)}'" if code else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_checksum(style)}'; "
        f"script-src {scripts}; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            version=versions().get("dno", ""),
            policy=policy,
            # Ours, and free of what would end their elements.
            style=Markup(style),
            script=Markup(code),
            **values,
        )
    )


def _checksum(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@functools.cache
def _part(name: str) -> str:
    return files("dno.report").joinpath("templates", name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    from dno.report.view import number

    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"number": number}
    environment.filters.update(filters)
    return environment
