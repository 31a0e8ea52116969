"""The frozen audio encoders: chunked, batched, only the requested hidden states.

:mod:`src.model.encoders.load` builds one with random weights or loads a trained one. An encoder is a class derived
from :class:`src.model.encoders.base.Encoder`, chosen by short name or import path (``ENCODERS`` in ``config.py``).
"""
