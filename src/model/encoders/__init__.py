"""The four frozen audio encoders: chunked, batched, only the requested hidden states.

``build.build_encoder`` makes one with random weights, ``weights.load_encoder`` a trained one.
"""
