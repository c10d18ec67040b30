"""Redis, and what every client of it may rely on."""
