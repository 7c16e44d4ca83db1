// Pixels to colours, and the bridge to OpenSeadragon: one of its tiles is one chunk of a level.
import OpenSeadragon from "openseadragon";

const TYPE = "mosaicreg-chunk";

// Adds the channels in view, each scaled from its window to its colour, into 8-bit RGBA.
export function paint(chunks, channels, width, height) {
  const pixels = new ImageData(width, height);
  const out = pixels.data;
  for (let k = 3; k < out.length; k += 4) out[k] = 255;
  chunks.forEach(({ data, stride }, k) => {
    const { low, high, colour } = channels[k];
    const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    const gain = 1 / Math.max(high - low, 1e-12);
    for (let y = 0, o = 0; y < height; y++) {
      for (let x = 0, i = y * stride; x < width; x++, i++, o += 4) {
        let v = (Number(data[i]) - low) * gain;
        v = v > 0 ? (v < 1 ? v : 1) : 0; // also for NaN
        out[o] += v * red; // clamped by the array itself
        out[o + 1] += v * green;
        out[o + 2] += v * blue;
      }
    }
  });
  return pixels;
}

// `state` holds the plane in view; channels are read from the image whenever a tile is drawn.
export function tileSource(image, state) {
  const last = image.levels.length - 1;
  const load = async ({ level, row, col }) => {
    const shown = image.channels.map((c, k) => [c, k]).filter(([c]) => c.active);
    const chunks = await Promise.all(
      shown.map(([, k]) => image.chunks.get(level, row, col, { ...state.plane, c: k })),
    );
    return [chunks, shown.map(([c]) => c)];
  };
  OpenSeadragon.converter.learn(TYPE, TYPE, (tile, place) => place);
  OpenSeadragon.converter.learn(TYPE, "context2d", async (tile, place) => {
    const [chunks, channels] = await load(place);
    const { height, width, chunkHeight, chunkWidth } = image.levels[place.level];
    const canvas = document.createElement("canvas");
    canvas.width = Math.min(chunkWidth, width - place.col * chunkWidth);
    canvas.height = Math.min(chunkHeight, height - place.row * chunkHeight);
    const context = canvas.getContext("2d");
    context.putImageData(paint(chunks, channels, canvas.width, canvas.height), 0, 0);
    return context;
  }, 1, 2);

  const source = new OpenSeadragon.TileSource({
    width: image.width,
    height: image.height,
    tileWidth: image.levels[0].chunkWidth,
    tileHeight: image.levels[0].chunkHeight,
    minLevel: 0,
    maxLevel: last,
    ready: true,
  });
  source.getLevelScale = (k) => 1 / image.levels[last - k].factor;
  source.getTileWidth = (k) => image.levels[last - k].chunkWidth;
  source.getTileHeight = (k) => image.levels[last - k].chunkHeight;
  source.getNumTiles = (k) => {
    const level = image.levels[last - k];
    return new OpenSeadragon.Point(
      Math.ceil(level.width / level.chunkWidth), Math.ceil(level.height / level.chunkHeight),
    );
  };
  source.getTileUrl = (k, x, y) => `${last - k}/${y}/${x}`;
  source.hasTransparency = () => false;
  source.downloadTileStart = (job) => {
    const [level, row, col] = job.src.split("/").map(Number);
    const place = { level, row, col };
    load(place).then(
      () => job.finish(place, null, TYPE),
      (error) => job.fail(String(error), null),
    );
  };
  source.downloadTileAbort = () => {};
  return source;
}

// OpenSeadragon draws tiles without overlap one pixel too large: that hides seams, but moves pixels by
// up to one. Edges on whole pixels of the screen hide them as well. (`_positionTile` is not public; the
// version is pinned, and the tests of the page compare pixels.)
export function snapTiles(item) {
  const position = item._positionTile;
  item._positionTile = function (tile, ...rest) {
    position.call(this, tile, ...rest);
    const ratio = OpenSeadragon.pixelDensityRatio;
    for (const axis of ["x", "y"]) {
      const start = Math.round(tile.position[axis] * ratio);
      const end = Math.round((tile.position[axis] + tile.size[axis] - 1) * ratio);
      tile.position[axis] = start / ratio;
      tile.size[axis] = (end - start) / ratio;
    }
  };
}
