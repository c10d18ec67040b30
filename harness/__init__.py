"""Servers, ports, topologies and certificates for tests, benchmark and fault runs. It imports none of these three."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
