"""The four frozen audio encoders: chunked, batched, only the requested hidden states."""
