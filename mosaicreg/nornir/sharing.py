"""Passing large images to other processes: chunked storage behind the documented names."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.errors import InputError
from mosaicreg.imagesave import write_zarr

_MODES = {"c": "r", "r": "r", "r+": "r+", "w+": "w"}


class memmap_metadata:  # noqa: N801  # the documented name
    """Where an image lies that is too large to be passed on: cheap to pickle, opened when needed.

    Stands for a zarr array (`mosaicreg.imagesave.write_zarr`), not for a raw memory map: chunks
    that are not asked for are never read, and the disk holds them compressed.

    Args:
        path: of the zarr array.
        shape, dtype: what it must be.
        mode: ``"c"`` (the default) or ``"r"`` open it read-only, ``"r+"`` for changes, ``"w+"``
            makes it anew.

    Raises:
        ValueError: for another mode.
    """

    def __init__(self, path: str, shape: Any, dtype: Any, mode: str | None = None) -> None:
        mode = "c" if mode is None else mode
        if mode not in _MODES:
            raise ValueError(f"the mode must be one of {', '.join(_MODES)}, not {mode!r}")
        self._path, self._mode = str(path), mode
        self._shape = tuple(int(n) for n in shape)
        self._dtype = np.dtype(dtype)

    path = property(lambda self: self._path, doc="Of the zarr array.")
    shape = property(lambda self: self._shape, doc="(height, width).")
    dtype = property(lambda self: self._dtype, doc="Of its pixels.")
    mode = property(lambda self: self._mode, doc="How `open` opens it.")

    def open(self) -> Any:
        """The zarr array.

        Raises:
            FileNotFoundError: where there is none.
            InputError: where it has another shape or type.
        """
        import zarr

        if self.mode == "w+":
            chunks = tuple(min(n, 1024) or 1 for n in self.shape)
            return zarr.create_array(
                self.path, shape=self.shape, dtype=self.dtype, chunks=chunks, overwrite=True
            )
        array = zarr.open_array(self.path, mode=_MODES[self.mode])
        if array.shape != self.shape or array.dtype != self.dtype:
            raise InputError(
                f"{self.path} holds {array.dtype} pixels of shape {array.shape} where "
                f"{self.dtype} and {self.shape} were promised"
            )
        return array


class SharedImage(np.ndarray[Any, Any]):
    """A read-only array that is pickled as the path of a zarr array, not as its pixels.

    Views, parts and results of arithmetic are ordinary values: only the whole is shared.
    """

    _folder: str | None = None

    def __reduce__(self) -> Any:
        if self._folder is None:
            return np.asarray(self).__reduce__()
        return _load_shared, (self._folder,)


def _load_shared(folder: str) -> SharedImage:
    import zarr

    pixels = np.asarray(zarr.open_array(f"{folder}/image.zarr", mode="r")[...])
    return _shared(pixels, folder)


def _shared(pixels: NDArray[Any], folder: str) -> SharedImage:
    image = pixels.view(SharedImage)
    image._folder = folder
    image.flags.writeable = False
    return image


def npArrayToReadOnlySharedArray(npArray: ArrayLike) -> NDArray[Any]:
    """The array, read-only, cheap to pass to other processes: only a path is pickled.

    Behind it stands a zarr array in the temporary folder, deleted with the array that this returns,
    so keep that while others work.
    """
    pixels = np.array(npArray)
    folder = Path(tempfile.mkdtemp(prefix="mosaicreg-"))
    write_zarr(folder / "image.zarr", pixels)
    image = _shared(pixels, str(folder))
    weakref.finalize(image, shutil.rmtree, folder, ignore_errors=True)
    return image
