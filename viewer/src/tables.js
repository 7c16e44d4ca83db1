// Tiles and pairs: the tables inside the archive, one zarr array per column.
import * as zarr from "zarrita";
import { open } from "./image.js";

const VERDICTS = ["measured", "stage", "conflict"];

async function readTable(group, name) {
  let table;
  try {
    table = await open(group.resolve(`mosaicreg/${name}`), "group");
  } catch {
    return null; // an archive of another program
  }
  const columns = await Promise.all(
    table.attrs.columns.map(async (column) => {
      const array = await open(table.resolve(column), "array");
      const { data } = await zarr.get(array);
      if (array.dtype === "bool") return [column, Uint8Array.from(data)];
      if (!array.attrs.text) return [column, data];
      return [column, new TextDecoder().decode(data).split("\0")];
    }),
  );
  return Object.fromEntries(columns);
}

export async function readTiles(group) {
  const [tiles, pairs] = await Promise.all([readTable(group, "tiles"), readTable(group, "pairs")]);
  if (!tiles) return null;
  const count = tiles.tile.length;
  const origin = { y: firstPixel(tiles, "y", "height"), x: firstPixel(tiles, "x", "width") };
  const verdict = Uint8Array.from(tiles.verdict, (v) => Math.max(0, VERDICTS.indexOf(v)));
  const byTile = new Map();
  if (pairs) {
    pairs.fixed.forEach((fixed, k) => {
      for (const tile of [Number(fixed), Number(pairs.moving[k])]) {
        if (!byTile.has(tile)) byTile.set(tile, []);
        byTile.get(tile).push(k);
      }
    });
  }
  return { ...tiles, count, origin, verdict, verdicts: tiles.verdict, pairs, byTile };
}

// The mosaic's first pixel is the smallest that any tile owns (owned_boxes of mosaicreg.geometry,
// turned_boxes of mosaicreg.turned).
function firstPixel(tiles, axis, side) {
  const other = side === "height" ? "width" : "height";
  return tiles[axis].reduce((least, start, k) => {
    const angle = ((tiles.angle?.[k] ?? 0) * Math.PI) / 180;
    if (!angle) return Math.min(least, Math.floor(start + 0.5));
    const [along, across] = [Number(tiles[side][k]), Number(tiles[other][k])];
    const half = (Math.abs(Math.cos(angle)) * along + Math.abs(Math.sin(angle)) * across) / 2;
    return Math.min(least, Math.ceil(start + (along - 1) / 2 - half));
  }, Infinity);
}

// Number of the tile under a point (mosaic px) whose centre is nearest, or -1.
export function tileAt(tiles, y, x) {
  let best = -1;
  let nearest = Infinity;
  for (let k = 0; k < tiles.count; k++) {
    const dy = y - (tiles.y[k] - tiles.origin.y);
    const dx = x - (tiles.x[k] - tiles.origin.x);
    const height = Number(tiles.height[k]);
    const width = Number(tiles.width[k]);
    if (dy < 0 || dx < 0 || dy >= height || dx >= width) continue;
    const away = (dy - height / 2) ** 2 + (dx - width / 2) ** 2;
    if (away < nearest) [best, nearest] = [k, away];
  }
  return best;
}

// How far a pair's measured offset is from where the layout puts its tiles, px.
export function misfit(tiles, k) {
  const { fixed, moving, dy, dx } = tiles.pairs;
  const [a, b] = [Number(fixed[k]), Number(moving[k])];
  return Math.hypot(tiles.y[b] - tiles.y[a] - dy[k], tiles.x[b] - tiles.x[a] - dx[k]);
}
