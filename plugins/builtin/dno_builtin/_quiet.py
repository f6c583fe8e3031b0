"""Loading models without their libraries' chatter."""

from __future__ import annotations

from dno.plugin import quiet as quiet
