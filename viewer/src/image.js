// A multiscale image (OME-Zarr 0.4 or 0.5): its levels, its channels, and chunks of pixels.
import * as zarr from "zarrita";

const CACHE_BYTES = 512 << 20;
const MICROMETRES = { micrometer: 1, nanometer: 1e-3, millimeter: 1e3, centimeter: 1e4, meter: 1e6,
  angstrom: 1e-4 };

// Version 3 first: asking for version 2 first would fill the console with files not found.
export function open(place, kind) {
  return zarr.open.v3(place, { kind }).catch(() => zarr.open.v2(place, { kind }));
}

export async function openImage(url) {
  const store = new zarr.FetchStore(url, { useSuffixRequest: true });
  const group = await open(zarr.root(store), "group");
  const ome = group.attrs.ome ?? group.attrs;
  const multiscale = ome.multiscales?.[0];
  if (!multiscale) throw new Error("this archive holds no OME-Zarr image");
  const axes = multiscale.axes.map((a) => a.name ?? a);
  const scales = multiscale.datasets.map(
    (d) => d.coordinateTransformations.find((t) => t.type === "scale").scale,
  );
  const arrays = await Promise.all(
    multiscale.datasets.map((d) => open(group.resolve(d.path), "array")),
  );
  const unit = multiscale.axes.at(-1).unit;
  const size = MICROMETRES[unit] ? scales[0].slice(-2).map((s) => s * MICROMETRES[unit]) : null;
  const finest = arrays[0];
  const levels = arrays.map((array, k) => {
    const [height, width] = array.shape.slice(-2);
    const [chunkHeight, chunkWidth] = array.chunks.slice(-2);
    return { array, height, width, chunkHeight, chunkWidth, factor: scales[k].at(-1) / scales[0].at(-1) };
  });
  const image = {
    group,
    name: multiscale.name || "mosaic",
    axes,
    levels,
    pixelSize: size,
    dtype: finest.dtype,
    height: levels[0].height,
    width: levels[0].width,
    planes: Object.fromEntries(axes.slice(0, -2).map((a, k) => [a, finest.shape[k]])),
  };
  image.chunks = new Chunks(image);
  image.channels = await describeChannels(image, ome.omero?.channels ?? []);
  return image;
}

// Chunks of single planes, fetched once while they are in use, the longest unused forgotten first.
class Chunks {
  constructor(image) {
    this.image = image;
    this.kept = new Map();
    this.bytes = 0;
  }

  // {data, height, width} of one chunk; `plane` gives the index on each leading axis.
  get(level, row, col, plane) {
    const lead = this.image.axes.slice(0, -2).map((a) => plane[a] ?? 0);
    const key = [level, ...lead, row, col].join("/");
    let entry = this.kept.get(key);
    if (entry) {
      this.kept.delete(key);
    } else {
      entry = { promise: this.load(level, row, col, lead), bytes: 0 };
      entry.promise.then(
        (chunk) => {
          entry.bytes = chunk.data.byteLength ?? 0;
          entry.chunk = chunk;
          this.bytes += entry.bytes;
          this.forget();
        },
        () => this.kept.delete(key),
      );
    }
    this.kept.set(key, entry);
    return entry.promise;
  }

  // The chunk if it is here already, else undefined.
  peek(level, row, col, plane) {
    const lead = this.image.axes.slice(0, -2).map((a) => plane[a] ?? 0);
    return this.kept.get([level, ...lead, row, col].join("/"))?.chunk;
  }

  forget() {
    for (const [key, entry] of this.kept) {
      if (this.bytes <= CACHE_BYTES) return;
      if (!entry.chunk) continue;
      this.kept.delete(key);
      this.bytes -= entry.bytes;
    }
  }

  async load(level, row, col, lead) {
    const { array, height, width, chunkHeight, chunkWidth } = this.image.levels[level];
    // A chunk may hold several planes: find the one that is asked for inside it.
    const inner = array.chunks.slice(0, -2);
    const chunk = await array.getChunk([...lead.map((k, a) => Math.floor(k / inner[a])), row, col]);
    const start = lead.reduce((sum, k, a) => sum + (k % inner[a]) * chunk.stride[a], 0);
    const [rowStride, colStride] = chunk.stride.slice(-2);
    const used = {
      height: Math.min(chunkHeight, height - row * chunkHeight),
      width: Math.min(chunkWidth, width - col * chunkWidth),
    };
    const direct = colStride === 1 && chunk.data.subarray;
    const data = direct
      ? chunk.data.subarray(start, start + (used.height - 1) * rowStride + used.width)
      : Float64Array.from({ length: used.height * used.width }, (_, k) =>
          Number(at(chunk.data, start + Math.floor(k / used.width) * rowStride + (k % used.width) * colStride)));
    return { ...used, data, stride: direct ? rowStride : used.width };
  }
}

function at(data, k) {
  return data.get ? data.get(k) : data[k];
}

async function describeChannels(image, given) {
  const count = image.planes.c ?? 1;
  const limits = rangeOfType(image.dtype);
  const channels = [];
  for (let k = 0; k < count; k++) {
    const said = given[k] ?? {};
    const window = said.window ?? {};
    const known = window.end > window.start;
    const [low, high] = known ? [window.start, window.end] : await brightness(image, k);
    channels.push({
      label: image.axes.includes("c") ? (said.label ?? `channel ${k}`) : "brightness",
      colour: `#${said.color ?? (count > 1 ? ["00FFFF", "FF00FF", "FFFF00"][k % 3] : "FFFFFF")}`,
      active: k < 6 && said.active !== false,
      low, high,
      min: limits ? limits[0] : Math.min(low, window.min ?? low),
      max: limits ? limits[1] : Math.max(high, window.max ?? high),
      whole: !!limits,
    });
  }
  return channels;
}

function rangeOfType(dtype) {
  const found = /^(u?)int(8|16|32)$/.exec(dtype);
  if (!found) return null;
  const bits = Number(found[2]);
  return found[1] ? [0, 2 ** bits - 1] : [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1];
}

// The 0.5 to 99.8 percentile of the coarsest level's first chunks, the fill value 0 left out.
export async function brightness(image, channel, plane = {}) {
  const level = image.levels.length - 1;
  const { height, width, chunkHeight, chunkWidth } = image.levels[level];
  const values = [];
  for (let row = 0; row < Math.min(4, height / chunkHeight); row++) {
    for (let col = 0; col < Math.min(4, width / chunkWidth); col++) {
      const chunk = await image.chunks.get(level, row, col, { ...plane, c: channel });
      for (let y = 0; y < chunk.height; y++) {
        for (let x = 0; x < chunk.width; x++) {
          const value = Number(chunk.data[y * chunk.stride + x]);
          if (value && Number.isFinite(value)) values.push(value);
        }
      }
    }
  }
  if (!values.length) return [0, 1];
  const sorted = Float64Array.from(values).sort();
  const pick = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  const low = pick(0.005);
  return [low, Math.max(pick(0.998), low + 1e-6)];
}
