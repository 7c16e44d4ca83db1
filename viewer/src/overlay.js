// What is drawn over the image: outlines, names, pair arrows, moves from stage to measured place.
export const VERDICT_COLOURS = { measured: "#56b4e9", stage: "#e69f00", conflict: "#ff5c8a" };
export const PAIR_COLOURS = { accepted: "#2fd08a", rejected: "#ff5c8a", "no signal": "#b0b0b0" };
const COLOURS = Object.values(VERDICT_COLOURS);
const SMALLEST = 5; // px on screen: of smaller tiles only those that were not measured are drawn
const NAMES_FROM = 60; // px on screen: a name needs so much room
const MOST_NAMES = 400;

export function drawOverlay(canvas, tiles, layers, toScreen, zoom, selected) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  if (!tiles) return;
  const zero = toScreen(0, 0);
  const place = (k) => ({
    x: zero.x + (tiles.x[k] - tiles.origin.x) * zoom,
    y: zero.y + (tiles.y[k] - tiles.origin.y) * zoom,
    w: Number(tiles.width[k]) * zoom,
    h: Number(tiles.height[k]) * zoom,
    angle: ((tiles.angle?.[k] ?? 0) * Math.PI) / 180,
  });
  const seen = Object.values(layers).some(Boolean) ? inView(tiles, zero, zoom, width, height, place) : [];
  if (layers.outlines) outlines(pen, tiles, seen);
  if (layers.pairs && tiles.pairs) pairArrows(pen, tiles, seen, place);
  if (layers.moves && tiles.stage_y) moves(pen, tiles, seen, zoom);
  if (layers.names) names(pen, tiles, seen);
  if (selected >= 0) {
    const box = place(selected);
    pen.strokeStyle = "#fff";
    pen.lineWidth = 3;
    pen.beginPath();
    outline(pen, box);
    pen.stroke();
  }
}

// [number, box] of the tiles on the screen; a million tiles must not cost a million objects per frame.
function inView(tiles, zero, zoom, width, height, place) {
  const seen = [];
  const [top, left] = [tiles.origin.y - zero.y / zoom, tiles.origin.x - zero.x / zoom];
  const [bottom, right] = [top + height / zoom, left + width / zoom];
  for (let k = 0; k < tiles.count; k++) {
    if (tiles.y[k] >= bottom || tiles.x[k] >= right) continue;
    if (tiles.y[k] + Number(tiles.height[k]) <= top || tiles.x[k] + Number(tiles.width[k]) <= left) continue;
    if (tiles.verdict[k] === 0 && Number(tiles.width[k]) * zoom < SMALLEST) continue;
    seen.push([k, place(k)]);
  }
  return seen;
}

// A tile is turned around its middle: (y, x) of it go to (c y - s x, s y + c x).
function outline(pen, { x, y, w, h, angle }) {
  if (!angle) {
    pen.rect(x, y, Math.max(w, 2), Math.max(h, 2));
    return;
  }
  const [c, s] = [Math.cos(angle), Math.sin(angle)];
  [[-1, -1], [-1, 1], [1, 1], [1, -1]].forEach(([b, a], k) => {
    const [dy, dx] = [(b * h) / 2, (a * w) / 2];
    const corner = [x + w / 2 + s * dy + c * dx, y + h / 2 + c * dy - s * dx];
    if (k) pen.lineTo(...corner);
    else pen.moveTo(...corner);
  });
  pen.closePath();
}

function outlines(pen, tiles, seen) {
  pen.lineWidth = 1.5;
  const small = seen.length > 20000 || (seen.length > 0 && seen[0][1].w < SMALLEST);
  COLOURS.forEach((colour, code) => {
    if (small && code === 0) return;
    pen.beginPath();
    for (const [k, box] of seen) if (tiles.verdict[k] === code) outline(pen, box);
    pen.strokeStyle = pen.fillStyle = colour;
    if (small) pen.fill();
    else pen.stroke();
  });
}

function pairArrows(pen, tiles, seen, place) {
  if (seen.length > 20000) return;
  const drawn = new Set(seen.flatMap(([k]) => tiles.byTile.get(k) ?? []));
  for (const [status, colour] of Object.entries(PAIR_COLOURS)) {
    pen.beginPath();
    for (const k of drawn) {
      if (tiles.pairs.status[k] !== status) continue;
      const a = place(Number(tiles.pairs.fixed[k]));
      const b = place(Number(tiles.pairs.moving[k]));
      arrow(pen, between(a, b, 0.3), between(a, b, 0.7));
    }
    pen.setLineDash(status === "no signal" ? [3, 4] : []);
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.stroke();
  }
  pen.setLineDash([]);
}

function between(a, b, share) {
  return {
    x: (a.x + a.w / 2) * (1 - share) + (b.x + b.w / 2) * share,
    y: (a.y + a.h / 2) * (1 - share) + (b.y + b.h / 2) * share,
  };
}

function arrow(pen, from, to) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy);
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x, to.y);
  if (length < 6) return;
  const head = Math.min(8, length / 2) / length;
  for (const side of [0.5, -0.5]) {
    pen.moveTo(to.x, to.y);
    pen.lineTo(to.x - (dx + side * dy) * head, to.y - (dy - side * dx) * head);
  }
}

function moves(pen, tiles, seen, zoom) {
  if (seen.length > 20000) return;
  pen.beginPath();
  for (const [k, { x, y, w, h }] of seen) {
    const to = { x: x + w / 2, y: y + h / 2 };
    const from = {
      x: to.x + (tiles.stage_x[k] - tiles.x[k]) * zoom,
      y: to.y + (tiles.stage_y[k] - tiles.y[k]) * zoom,
    };
    arrow(pen, from, to);
    pen.moveTo(from.x + 2, from.y);
    pen.arc(from.x, from.y, 2, 0, 7);
  }
  pen.strokeStyle = "#ffe95c";
  pen.lineWidth = 2;
  pen.stroke();
}

function names(pen, tiles, seen) {
  const roomy = seen.filter(([, box]) => box.w >= NAMES_FROM);
  if (roomy.length > MOST_NAMES) return;
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "top";
  pen.lineWidth = 3;
  pen.strokeStyle = "#000";
  pen.fillStyle = "#fff";
  for (const [k, { x, y, w, h }] of roomy) {
    pen.save();
    pen.beginPath();
    pen.rect(x, y, w - 4, h);
    pen.clip();
    const at = [Math.max(x + 5, Math.min(8, x + w - NAMES_FROM)), y + 5];
    pen.strokeText(tiles.tile[k], ...at);
    pen.fillText(tiles.tile[k], ...at);
    pen.restore();
  }
}
