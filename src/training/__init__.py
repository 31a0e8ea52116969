"""Training the audio embedder beside a frozen language model."""
