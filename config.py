"""The settings, under the name that a reader may look for: eventpoll/settings.py defines them. Nothing imports this."""

from eventpoll.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
