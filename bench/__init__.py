"""The benchmark: everything side by side, in one run. `make bench` runs it; README.md says how to read it."""
