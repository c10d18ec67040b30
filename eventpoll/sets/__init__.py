"""What a SET is: strict JSON, events, minting, signed SETs. May use: store, errors."""
