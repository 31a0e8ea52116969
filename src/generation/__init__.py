"""Answers from the language model: prompts and audio embeddings through vLLM, over one clip or a data set."""
