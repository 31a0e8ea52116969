"""Training the audio front end beside a frozen language model."""
