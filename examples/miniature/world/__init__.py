"""The miniature world: sounds, scenes, questions, and the text its language model learns from."""
