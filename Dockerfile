# eventpoll: web as it stands; worker and release are the other lines of the Procfile. It writes nowhere but in /tmp:
#   docker run --read-only --tmpfs /tmp --cap-drop ALL --env-file … -p 8000:8000 IMAGE [flask eventpoll worker]
# The digest is the index of all platforms, as Docker's own list of official images gives it for 2026-09-19. To renew it:
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PORT=8000
WORKDIR /app

COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --no-compile --require-hashes -r requirements.lock

COPY app.py config.py connections.py wsgi.py gunicorn.conf.py ./
COPY eventpoll eventpoll

USER 10001:10001
EXPOSE 8000
# docker stop sends SIGTERM, and waits 10 s unless told: docker stop --time 35. The worker has no port: --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
CMD ["gunicorn", "wsgi:app"]
