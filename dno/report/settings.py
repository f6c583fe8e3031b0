"""Settings and versions of a run, as a page lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dno.report.private import shown, shown_value


@dataclass(frozen=True)
class Setting:
    """One option of a run and its value."""

    place: str
    value: str


def settings_of(values: Mapping[str, Any]) -> Mapping[str, Sequence[Setting]]:
    """The whole configuration but prompts and seeds, which stand elsewhere, by heading."""
    found: dict[str, list[Setting]] = {"run": []}
    for key, value in shown_value(values).items():
        if key in ("prompts", "seeds"):
            continue
        if isinstance(value, Mapping):
            found[key] = [Setting(place, text) for place, text in _leaves(value)]
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            found[key] = [
                Setting(place, text)
                for one in value
                for place, text in _leaves({"use": one.get("use"), **one})
            ]
        else:
            found["run"].append(Setting(key, _text(value)))
    return {title: rows for title, rows in found.items() if rows}


def settings_of_places(places: Mapping[str, Any]) -> Mapping[str, Sequence[Setting]]:
    """Settings by dotted place, by the heading that their places begin with."""
    found: dict[str, list[Setting]] = {"run": []}
    for place, value in places.items():
        title, _, rest = shown(place, limit=200).partition(".")
        row = Setting(rest or title, _text(shown_value(value)))
        found.setdefault(title if rest else "run", []).append(row)
    return {title: rows for title, rows in found.items() if rows}


def text_of(value: Any) -> str:
    """One value of a configuration, for people."""
    return _text(shown_value(value))


def _leaves(table: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        inner = f"{place}.{key}" if place else key
        if isinstance(value, Mapping):
            yield from _leaves(value, inner)
        else:
            yield inner, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value or "–"
    return shown(str(value), limit=200)


def versions_of(result: Mapping[str, Any]) -> Mapping[str, str]:
    """What a run says that it ran with; empty where it says nothing."""
    told = result.get("versions")
    if not isinstance(told, Mapping):
        return {}
    return {
        shown(str(name), limit=40): shown(str(version), limit=40)
        for name, version in list(told.items())[:12]
    }
