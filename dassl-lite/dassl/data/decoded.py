"""Caches of decoded training images: one for all forked workers, else one a process."""

import mmap
import os
import pickle
import sys
import weakref
from contextlib import contextmanager

from PIL import Image

FORKED = sys.platform == "linux"  # the workers are
if FORKED:
    import fcntl

_WORD = 8  # bytes of a whole number


def build_cache(images, size, processes):
    """Return an empty cache of `images` images at most, and `size` bytes over all processes."""
    return SharedImages(images, size) if FORKED else OwnImages(size // processes)


class OwnImages:
    """Images by index, four bytes a pixel as in Pillow, in one process; a new one has its own."""

    def __init__(self, size):
        """Keep `size` bytes at most."""
        self.size, self.images = size, {}

    def share(self, other):
        """Keep no more than before together with another empty cache."""
        self.size = other.size = self.size // 2

    def get(self, index):
        """Return a copy of an image, or None."""
        image = self.images.get(index)
        return image and image.copy()

    def put(self, index, image):
        """Keep a copy of an image if there is room."""
        size = 4 * image.width * image.height
        if size <= self.size:
            self.size -= size
            self.images[index] = image.copy()


class SharedImages:
    """RGB images by index, three bytes a pixel, in this process and all that are forked from it.

    In one process, one thread at a time may put images.
    """

    def __init__(self, images, size):
        """Reserve room, not memory."""
        self.room = _Room(size)
        self.starts = _shared_array(images)  # of each image in the room; 0 until it is complete

    def share(self, other):
        """Keep no more than before together with another empty cache."""
        self.room = other.room

    def get(self, index):
        """Return a copy of an image, or None."""
        start = self.starts[index]
        if not start:
            return None
        memory = self.room.bytes
        head = start + _WORD
        pixels = head + int.from_bytes(memory[start:head], "little")
        size, info = pickle.loads(memory[head:pixels])
        image = Image.frombytes("RGB", size, memory[pixels : pixels + 3 * size[0] * size[1]])
        image.info = info
        return image

    def put(self, index, image):
        """Keep a copy of an image if there is room."""
        size = 3 * image.width * image.height
        if not self.room.has(size):
            return
        head = pickle.dumps((image.size, image.info))
        parts = [len(head).to_bytes(_WORD, "little"), head, image.tobytes()]
        if start := self.room.add(parts):
            with self.room.alone():  # no processor moves a write across a lock
                self.starts[index] = start


class _Room:
    """Memory that forked processes fill from its beginning; it is taken when it is written."""

    def __init__(self, size):
        self.end = _shared_array(1)
        self.end[0] = _WORD  # so that no image starts at 0
        self.file = os.memfd_create("decoded")  # on no disk, and not in /dev/shm
        weakref.finalize(self, os.close, self.file)
        os.ftruncate(self.file, _WORD + size)
        self.bytes = memoryview(mmap.mmap(self.file, _WORD + size, prot=mmap.PROT_READ))

    def has(self, size):
        """Return whether there is room for `size` bytes."""
        return self.end[0] + size <= len(self.bytes)

    def add(self, parts):
        """Write `parts` one after the other; return their start, or 0 if they do not fit."""
        size = sum(map(len, parts))
        with self.alone():
            start = self.end[0]
            if not self.has(size):
                return 0
            self.end[0] += size
        return start if os.pwritev(self.file, parts, start) == size else 0

    @contextmanager
    def alone(self):
        """Keep other processes out; the system releases the lock of one that is killed."""
        fcntl.lockf(self.file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN)


def _shared_array(words):
    """Return whole numbers, at first 0, that forked processes share."""
    return memoryview(mmap.mmap(-1, _WORD * words)).cast("q")
