"""gunicorn's settings, which gunicorn finds in this folder: eventpoll/gunicorn_conf.py defines them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # gunicorn may have been started in another folder

from eventpoll.gunicorn_conf import *  # noqa: F403
