"""The command `eventpoll`, and `python -m eventpoll`: the same commands as `flask eventpoll`, without FLASK_APP."""

from flask import Flask
from flask.cli import ScriptInfo

from eventpoll.cli.commands import group


def main() -> None:
    """Run a command. Flask makes the application only for a command that needs it."""
    group(prog_name="eventpoll", obj=ScriptInfo(create_app=_application))


def _application() -> Flask:
    from eventpoll.wsgi import app

    return app


if __name__ == "__main__":
    main()
