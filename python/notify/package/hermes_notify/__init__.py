"""The senders ``notify-hermes`` and ``notify-agent``, as modules: ``python -m hermes_notify.notify_hermes``."""
import os
from typing import Any

__version__ = "0.9.0"


def register(ctx: Any) -> None:
    """For agents that load plugins: shows them how to use the two programs."""
    skill = os.path.join(os.path.dirname(os.path.abspath(__file__)), "skills", "notify-cli", "SKILL.md")
    ctx.register_skill("notify-cli", skill, "Send messages with notify-hermes and notify-agent")
