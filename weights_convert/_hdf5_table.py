"""Run as a program: prints where the data sets of an HDF5 file lie, as one line of JSON.

The HDF5 library is large, written in C, and not made for hostile files. It therefore runs in a
process of its own, with bounded memory and time; what it says is only believed where it agrees
with the size of the file. Nothing of jaxplain is imported here.

    python _hdf5_table.py FILE OFFSET SIZE     the HDF5 file is these bytes of FILE
"""

import io
import json
import sys

_MEMORY = 2 << 30
_SECONDS = 20
_OBJECTS = 20_000
_TEXT = 1 << 22  # bytes of attributes and compact data, together


class _Part(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path, offset, size):
        self._file = open(path, "rb")  # noqa: SIM115 (until the program ends)
        self._offset, self._size, self._at = offset, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, to, whence=0):
        self._at = to + (0, self._at, self._size)[whence]
        return self._at

    def tell(self):
        return self._at

    def readinto(self, buffer):
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(memoryview(buffer)[:count])
        self._at += count
        return count


class _Budget:
    """Counts the bytes of texts and small data: what is said of a file stays small."""

    def __init__(self):
        self.left = _TEXT

    def spend(self, size):
        self.left -= size
        if self.left < 0:
            raise ValueError("it holds impossibly long attributes")


def table(path, offset, size):
    """The data sets: path -> [offset, shape, dtype] or a complaint; and texts of attributes."""
    import h5py

    budget = _Budget()
    sets: dict = {}
    texts: dict = {}
    with h5py.File(_Part(path, offset, size), "r", driver="fileobj") as file:
        stack: list[tuple[str, h5py.Group]] = [("", file)]
        seen = 0
        while stack:
            prefix, group = stack.pop()
            texts[prefix] = {
                key: _texts(h5py, group.attrs, key, budget)
                for key in ("layer_names", "weight_names", "name")
                if key in group.attrs
            }
            for key in group:
                seen += 1
                if seen > _OBJECTS or prefix.count("/") > 64:
                    raise ValueError("it holds too many objects")
                path = f"{prefix}/{key}" if prefix else str(key)
                link = group.get(key, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{path!r:.80} is a link to elsewhere")
                item = group[key]
                if isinstance(item, h5py.Dataset):
                    sets[path] = _place(h5py, item, budget)
                elif isinstance(item, h5py.Group):
                    stack.append((path, item))
    return {"sets": sets, "texts": texts}


def _place(h5py, item, budget):
    if item.external:
        return "lies in another file"
    if item.is_virtual:
        return "refers to other data"
    if item.dtype.kind not in "biuf" or item.dtype.subdtype:
        return f"is of the type {item.dtype}, which is no plain number"
    if item.shape is None:  # a data space that holds nothing, not even a shape
        return "has no data"
    if item.size and item.id.get_create_plist().get_layout() == h5py.h5d.COMPACT:
        budget.spend(item.nbytes)
        return [None, item.shape, item.dtype.str, item[()].tobytes().hex()]
    if item.size and item.id.get_offset() is None:
        if item.chunks or item.compression:
            return "is compressed or stored in chunks; save it again without compression"
        return "has no data"
    return [item.id.get_offset() if item.size else 0, item.shape, item.dtype.str]


def _texts(h5py, attributes, key, budget):
    import numpy as np

    value = attributes[key]
    if isinstance(value, h5py.Empty):
        return []
    items = np.asarray(value).reshape(-1).tolist()
    budget.spend(sum(len(v) if isinstance(v, (bytes, str)) else 8 for v in items))
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in items]


def main():
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # Windows and macOS have no such limits; the parent's time limit holds there too
    try:
        import h5py  # noqa: F401
    except ImportError:
        print(json.dumps({"missing": "h5py"}))
        return
    try:
        result = table(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        print(json.dumps(result))
    except Exception as error:
        print(json.dumps({"error": " ".join(str(error).split())[:200]}))


if __name__ == "__main__":
    main()
