"""Servers, ports, topologies and certificates for tests, benchmark and fault runs, of which it imports none."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
