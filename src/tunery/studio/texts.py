"""Every sentence of Studio, in English and German, from one catalogue (texts.toml); numbers and times beside them.

Errors and findings are the service's own sentences, in English, as the API says them.
"""

import tomllib
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from babel import Locale, negotiate_locale
from babel.dates import format_date, format_datetime, format_skeleton, format_timedelta
from babel.numbers import format_decimal, format_percent
from nicegui import ui

LANGUAGES = ("en", "de")
LANGUAGE = "language"
"""Key of the client's storage."""
UNITS = ("B", "KB", "MB", "GB", "TB")


@cache
def catalogue() -> dict[str, dict[str, str]]:
    """Key such as files.title to its text in each language."""
    sections = tomllib.loads(files(__package__).joinpath("texts.toml").read_text("utf-8"))
    return {f"{section}.{key}": texts for section, keys in sections.items() for key, texts in keys.items()}


def t(key: str, **values: Any) -> str:
    """The text in the language of the page that is being built or updated, with `{name}` replaced by `values`."""
    return text_in(language(), key, **values)


def text_in(language: str, key: str, **values: Any) -> str:
    text = catalogue()[key][language]
    return text.format(**values) if values else text


def language() -> str:
    """Of the page at hand."""
    return str(ui.context.client.storage.get(LANGUAGE, LANGUAGES[0]))


def negotiated(accepted: str, chosen: str | None) -> str:
    """The language to speak: chosen, else the best of an Accept-Language header (RFC 9110, 12.5.4), else English."""
    if chosen in LANGUAGES:
        return str(chosen)
    weighed = []
    for part in accepted.split(","):
        tag, _, parameters = part.strip().partition(";")
        quality = parameters.strip().removeprefix("q=") or "1"
        try:
            weighed.append((float(quality), tag.replace("-", "_")))
        except ValueError:
            continue
    wanted = [tag for quality, tag in sorted(weighed, key=lambda one: -one[0]) if quality > 0 and tag]
    return negotiate_locale(wanted, LANGUAGES) or LANGUAGES[0]


def shown_number(value: float, *, digits: int = 0) -> str:
    """1,234 or 1.234; at most `digits` behind the point."""
    pattern = "#,##0" + ("." + "#" * digits if digits else "")
    return str(format_decimal(value, format=pattern, locale=_locale()))


def shown_percent(share: float) -> str:
    return str(format_percent(share, format="#,##0.#%", locale=_locale()))


def shown_bytes(count: int) -> str:
    """1.5 MB, in powers of 1,024."""
    size, unit = float(count), 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{shown_number(size, digits=0 if unit == 0 else 1)} {UNITS[unit]}"


def shown_time(seconds: float | None) -> str:
    """A Unix time as date and time of day in the service's own zone; a dash for none."""
    if seconds is None:
        return "–"
    return str(format_datetime(datetime.fromtimestamp(seconds).astimezone(), "short", locale=_locale()))


def shown_date(seconds: float) -> str:
    return str(format_date(datetime.fromtimestamp(seconds, UTC).astimezone(), "medium", locale=_locale()))


def shown_day(day: date) -> str:
    """Without its year: for axes."""
    return str(format_skeleton("MMMd", day, locale=_locale()))


def shown_span(seconds: float) -> str:
    """About how long: 3 minutes, 2 hours."""
    return str(format_timedelta(round(seconds), threshold=1.5, locale=_locale()))


def _locale() -> Locale:
    return Locale.parse({"en": "en_GB", "de": "de_DE"}[language()])
