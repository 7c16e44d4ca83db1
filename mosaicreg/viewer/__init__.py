"""The viewer: a local page that pans and zooms over an archive, or over a layout not yet assembled.

The page (``page/``, built from the repository's ``viewer/``) reads the archive itself, chunk by
chunk, with OpenSeadragon and zarrita; `serving` hands it the archive's files and nothing else.
`ondemand` makes a layout look like an archive whose chunks are computed when they are asked for.
"""

from __future__ import annotations
