"""Connections to Redis (one server, Sentinel, Cluster, embedded) and its wake-ups."""
