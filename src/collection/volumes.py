"""Names kept for callers: archives in several files go through :mod:`src.collection.unpack` as all others do."""

from src.collection.split_archives import JoinedFile
from src.collection.unpack import unpack_volumes

__all__ = ["JoinedFile", "unpack_volumes"]
