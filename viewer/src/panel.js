// The controls on the left and the numbers of a tile on the right. Text from files is text, never HTML.
import { lengthText } from "./place.js";
import { misfit } from "./tables.js";
import { PAIR_COLOURS, VERDICT_COLOURS } from "./overlay.js";

export const byId = (id) => document.getElementById(id);

export function make(kind, facts = {}, ...children) {
  const element = Object.assign(document.createElement(kind), facts);
  element.append(...children);
  return element;
}

export function showFacts(image, tiles) {
  byId("title").textContent = document.title = image.name;
  const lead = Object.entries(image.planes).map(([a, n]) => `${a}=${n} `).join("");
  const words = [`${lead}${image.height} × ${image.width} px, ${image.dtype}`];
  if (image.pixelSize) {
    const [height, width] = [image.height * image.pixelSize[0], image.width * image.pixelSize[1]];
    words.push(`${lengthText(height)} × ${lengthText(width)}`);
  }
  if (tiles) words.push(`${tiles.count} tiles`);
  byId("facts").textContent = words.join(" · ");
}

export function channelControls(image, changed, automatic) {
  byId("channels").replaceChildren(...image.channels.map((channel, k) => {
    const step = channel.whole ? 1 : "any";
    const number = (key) => make("input", { type: "number", step, value: round(channel[key]),
      ariaLabel: `${channel.label}: ${key === "low" ? "black" : "white"} from` });
    const [low, high] = [number("low"), number("high")];
    const slider = make("input", { type: "range", min: 0, max: 1000, ariaLabel: `${channel.label}: contrast` });
    const top = Math.min(channel.max, Math.max(channel.high * 3, channel.low + 1));
    const toSlider = () => { slider.value = (1000 * (channel.high - channel.low)) / (top - channel.low); };
    const set = (window) => {
      Object.assign(channel, window);
      low.value = round(channel.low);
      high.value = round(channel.high);
      changed();
    };
    low.onchange = () => { set({ low: Number(low.value) }); toSlider(); };
    high.onchange = () => { set({ high: Number(high.value) }); toSlider(); };
    slider.oninput = () => set({ high: channel.low + Math.max(1e-3, slider.value / 1000) * (top - channel.low) });
    const active = make("input", { type: "checkbox", checked: channel.active });
    active.onchange = () => { channel.active = active.checked; changed(); };
    const colour = make("input", { type: "color", value: channel.colour.toLowerCase(), ariaLabel: "colour" });
    colour.oninput = () => { channel.colour = colour.value; changed(); };
    const auto = make("button", { type: "button", textContent: "Auto" });
    auto.onclick = async () => { const [a, b] = await automatic(k); set({ low: a, high: b }); toSlider(); };
    toSlider();
    return make("div", { className: "channel" },
      make("div", {}, make("label", {}, active, ` ${channel.label}`), colour, auto),
      make("div", {}, low, slider, high));
  }));
}

const round = (value) => Number(value.toPrecision(6));

export function planeControls(image, state, changed) {
  const axes = Object.entries(image.planes).filter(([axis, n]) => axis !== "c" && n > 1);
  byId("planes").replaceChildren(...axes.map(([axis, n]) => {
    const shown = make("span", { textContent: `${axis} ${state.plane[axis] ?? 0}` });
    const slider = make("input", { type: "range", min: 0, max: n - 1, value: state.plane[axis] ?? 0, ariaLabel: axis });
    slider.oninput = () => {
      state.plane[axis] = Number(slider.value);
      shown.textContent = `${axis} ${slider.value}`;
      changed();
    };
    return make("div", { className: "row" }, shown, slider);
  }));
}

export function layerControls(layers, tiles, changed) {
  if (!tiles) {
    byId("layers").replaceChildren();
    byId("search").hidden = true;
    return;
  }
  const texts = { outlines: "Outlines", names: "Names" };
  if (tiles.pairs) texts.pairs = "Pairs";
  if (tiles.stage_y) texts.moves = "Moves from the stage";
  const key = (colours) => make("div", {}, ...Object.entries(colours).map(([text, colour]) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = colour;
    return make("span", { className: "key" }, swatch, text);
  }));
  byId("layers").replaceChildren(...Object.entries(texts).map(([name, text]) => {
    const box = make("input", { type: "checkbox", checked: layers[name], id: `layer-${name}` });
    box.onchange = () => { layers[name] = box.checked; changed(); };
    return make("div", { className: "row" }, make("label", {}, box, ` ${text}`));
  }), key(VERDICT_COLOURS), ...(tiles.pairs ? [key(PAIR_COLOURS)] : []));
  if (tiles.count <= 5000) {
    byId("names").replaceChildren(...tiles.tile.map((value) => make("option", { value })));
  }
}

export function showTile(image, tiles, k, select) {
  const box = byId("tile");
  box.hidden = k < 0;
  if (k < 0) return;
  const fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
  const facts = {
    verdict: tiles.verdicts[k],
    "y, x": `${fixed(tiles.y[k])}, ${fixed(tiles.x[k])} px`,
    size: `${tiles.height[k]} × ${tiles.width[k]} px`,
  };
  if (image.pixelSize) {
    facts["in the mosaic"] = [tiles.y[k] * image.pixelSize[0], tiles.x[k] * image.pixelSize[1]]
      .map(lengthText).join(", ");
  }
  if (tiles.residual) facts.residual = `${fixed(tiles.residual[k])} px`;
  if (tiles.sigma) facts["standard error"] = `${fixed(tiles.sigma[k], 4)} px`;
  if (tiles.part) facts.part = String(tiles.part[k]);
  if (tiles.angle?.[k]) facts.turned = `${fixed(tiles.angle[k])}°`;
  if (tiles.stage_y) {
    const [dy, dx] = [tiles.y[k] - tiles.stage_y[k], tiles.x[k] - tiles.stage_x[k]];
    facts["moved from the stage"] = `${fixed(dy, 2)}, ${fixed(dx, 2)} px`;
  }
  const close = make("button", { type: "button", className: "close", textContent: "×", ariaLabel: "Close" });
  close.onclick = () => select(-1);
  const rows = Object.entries(facts).map(([name, value]) =>
    make("tr", {}, make("th", { textContent: name }), make("td", { textContent: value })));
  box.replaceChildren(close, make("h2", { textContent: tiles.tile[k] }), make("table", {}, ...rows));
  const pairs = tiles.byTile.get(k);
  if (pairs) box.append(make("h2", { textContent: "Pairs" }), pairTable(tiles, pairs, k, fixed, select));
}

function pairTable(tiles, pairs, k, fixed, select) {
  const head = make("tr", {}, ...["with", "status", "score", "misfit, px"].map((text) => make("th", { textContent: text })));
  return make("table", {}, head, ...pairs.map((p) => {
    const other = Number(tiles.pairs.fixed[p]) === k ? Number(tiles.pairs.moving[p]) : Number(tiles.pairs.fixed[p]);
    const name = make("button", { type: "button", className: "name", textContent: tiles.tile[other] });
    name.onclick = () => select(other, true);
    const unused = tiles.pairs.status[p] === "accepted" && tiles.pairs.used && !tiles.pairs.used[p];
    const numbers = [fixed(tiles.pairs.score[p]), fixed(misfit(tiles, p))];
    return make("tr", {}, make("td", {}, name),
      make("td", { textContent: tiles.pairs.status[p] + (unused ? ", unused" : "") }),
      ...numbers.map((text) => make("td", { className: "number", textContent: text })));
  }));
}
