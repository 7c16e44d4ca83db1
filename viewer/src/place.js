// The position in the URL: what a link to a place in the mosaic says, after the #.
export function readPlace(hash) {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (key) => (words.has(key) && Number.isFinite(Number(words.get(key))) ? Number(words.get(key)) : null);
  const place = { y: number("y"), x: number("x"), zoom: number("zoom"), tile: words.get("tile") };
  place.plane = Object.fromEntries(["t", "z"].filter((a) => number(a) !== null).map((a) => [a, number(a)]));
  place.channels = (words.get("channels") ?? "")
    .split(",")
    .map((text) => /^(\d+)(?::(-?[\d.e+-]+?):(-?[\d.e+-]+))?$/.exec(text))
    .filter(Boolean)
    .map(([, k, low, high]) => ({ k: Number(k), low: low && Number(low), high: high && Number(high) }));
  place.layers = words.has("layers") ? words.get("layers").split(",").filter(Boolean) : null;
  return place;
}

export function writePlace({ y, x, zoom, tile, plane, channels, layers }) {
  const words = [`y=${y.toFixed(1)}`, `x=${x.toFixed(1)}`, `zoom=${Number(zoom.toPrecision(4))}`];
  for (const [axis, index] of Object.entries(plane)) if (axis !== "c") words.push(`${axis}=${index}`);
  const shown = channels.flatMap((c, k) =>
    c.active ? [`${k}:${Number(c.low.toPrecision(6))}:${Number(c.high.toPrecision(6))}`] : []);
  words.push(`channels=${shown.join(",")}`);
  words.push(`layers=${Object.keys(layers).filter((name) => layers[name]).join(",")}`);
  if (tile) words.push(`tile=${encodeURIComponent(tile)}`);
  return `#${words.join("&")}`;
}

// 1, 2 or 5 times a power of ten, at most `most` px of screen long.
export function scaleBar(pixelSize, zoom, most = 160) {
  const unit = pixelSize ?? 1;
  const longest = (most / zoom) * unit;
  const ten = 10 ** Math.floor(Math.log10(longest));
  const length = ten * [5, 2, 1].find((f) => f * ten <= longest);
  return { width: (length / unit) * zoom, label: pixelSize === null ? `${length} px` : lengthText(length) };
}

export function lengthText(micrometres) {
  const size = Math.abs(micrometres);
  if (size >= 1000) return `${trim(micrometres / 1000)} mm`;
  if (size >= 1 || size === 0) return `${trim(micrometres)} µm`;
  return `${trim(micrometres * 1000)} nm`;
}

const trim = (value) => String(Number(value.toPrecision(6)));
