"""The browser that tests drive."""

from __future__ import annotations

import os
import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser() -> str:
    """The Chromium that tests drive: what DNO_BROWSER names, or one on the path; else nothing."""
    named = os.environ.get("DNO_BROWSER", "")
    return named or next((path for name in BROWSERS if (path := shutil.which(name))), "")
