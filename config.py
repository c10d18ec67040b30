"""The settings: eventpoll/settings.py has them. Here for who looks for them by this name."""

from eventpoll.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
