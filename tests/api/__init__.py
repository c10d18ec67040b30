"""What can be called over HTTP."""
