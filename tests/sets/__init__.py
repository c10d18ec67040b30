"""What a SET is."""
