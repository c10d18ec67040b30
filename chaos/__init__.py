"""Kill everything, again and again, and check that nothing was lost: `make chaos`; run.py is the table of contents."""
