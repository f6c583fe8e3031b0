"""Where a server's key is looked for."""

from __future__ import annotations

from typing import Final

KEY: Final = "VLM_JUDGE_API_KEY"
"""Name that messages suggest for the variable with the key."""
