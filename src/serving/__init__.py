"""An OpenAI-compatible server and a page to talk to, over the engine of ``src/generation``."""
