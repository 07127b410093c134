"""Logs that blklogwrites made: what was written to a file, in order."""
import struct

MAGIC = 0x6a736677736872
FLUSH, FUA, DISCARD = 1, 2, 4


class Entry:
    def __init__(self, offset, length, flags, data):
        self.offset, self.length = offset, length
        self.flags, self.data = flags, data

    @property
    def flush(self):
        return bool(self.flags & FLUSH)

    def apply(self, image, discards_zero=False):
        """Does to a bytearray, which grows, what was done to the file; what a
        discard leaves is up to the storage."""
        if not self.length or self.flush:
            return
        data = self.data
        if self.flags & DISCARD:
            if not discards_zero:
                return
            data = bytes(self.length)
        end = self.offset + self.length
        if len(image) < end:
            image.extend(bytes(end - len(image)))
        image[self.offset:end] = data


def read(path):
    """[Entry] of a log."""
    with open(path, "rb") as f:
        log = f.read()
    magic, version, count, sector = struct.unpack_from("<QQQI", log)
    assert (magic, version) == (MAGIC, 1)
    entries, at = [], sector
    for _ in range(count):
        start, sectors, flags, _ = struct.unpack_from("<QQQQ", log, at)
        at += sector
        length = sectors * sector
        data = b""
        if not flags & DISCARD:
            data = log[at:at + length]
            assert len(data) == length
            at += length
        entries.append(Entry(start * sector, length, flags, data))
    return entries
