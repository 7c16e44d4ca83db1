// The page of `mosaicreg view`: OpenSeadragon shows what zarrita reads from the archive.
import OpenSeadragon from "openseadragon";
import { brightness, openImage } from "./image.js";
import { snapTiles, tileSource } from "./drawing.js";
import { readTiles, tileAt } from "./tables.js";
import { drawOverlay } from "./overlay.js";
import { readPlace, scaleBar, writePlace } from "./place.js";
import { byId, channelControls, layerControls, planeControls, showFacts, showTile } from "./panel.js";

const SMOOTH_BELOW = 1.5; // screen px per image px: from there on pixels are shown as squares

async function start() {
  const image = await openImage(new URL("archive/", window.location.href));
  const tiles = await readTiles(image.group);
  const state = {
    image, tiles,
    plane: {},
    layers: { outlines: false, names: false, pairs: false, moves: false },
    selected: -1,
  };
  const viewer = OpenSeadragon({
    element: byId("image"),
    tileSources: [tileSource(image, state)],
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: false,
    animationTime: 0.5,
    blendTime: 0,
    imageLoaderLimit: 6,
    timeout: 3_600_000, // a layout's tiles are assembled while we wait
    maxImageCacheCount: 400,
    maxZoomPixelRatio: 40,
    minZoomImageRatio: 0.5,
    visibilityRatio: 0.2,
    subPixelRoundingForTransparency: OpenSeadragon.SUBPIXEL_ROUNDING_OCCURRENCES.NEVER,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    placeholderFillStyle: "#1b1b1e",
  });
  await new Promise((resolve, reject) => {
    viewer.addOnceHandler("open", resolve);
    viewer.addOnceHandler("open-failed", (event) => reject(new Error(event.message)));
  });
  connect(viewer, state);
}

function connect(viewer, state) {
  const { image, tiles } = state;
  const item = viewer.world.getItemAt(0);
  snapTiles(item);
  const zoomNow = (current = true) => item.viewportToImageZoom(viewer.viewport.getZoom(current));
  const toScreen = (y, x) =>
    viewer.viewport.pixelFromPoint(item.imageToViewportCoordinates(x, y, true), true);
  const toImage = (point) => item.viewportToImageCoordinates(viewer.viewport.pointFromPixel(point, true), true);

  const overlay = () => drawOverlay(byId("overlay"), tiles, state.layers, toScreen, zoomNow(), state.selected);
  const goTo = (y, x, zoom, now) => {
    if (zoom) viewer.viewport.zoomTo(item.imageToViewportZoom(zoom), null, now);
    viewer.viewport.panTo(item.imageToViewportCoordinates(x, y), now);
  };
  const link = () => {
    const centre = item.viewportToImageCoordinates(viewer.viewport.getCenter(false));
    const tile = state.selected >= 0 ? tiles.tile[state.selected] : null;
    return writePlace({ ...state, channels: image.channels, y: centre.y, x: centre.x, zoom: zoomNow(false), tile });
  };
  let timer = 0;
  const remember = () => {
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState(null, "", link()), 150);
  };
  const redraw = () => {
    overlay();
    const zoom = zoomNow();
    viewer.drawer.setImageSmoothingEnabled(zoom < SMOOTH_BELOW);
    const bar = scaleBar(image.pixelSize?.[1] ?? null, zoom);
    byId("bar").style.width = `${bar.width}px`;
    byId("length").textContent = bar.label;
    remember();
  };
  // OpenSeadragon asks for every tile again after requestInvalidate: its pixels are painted anew.
  viewer.addHandler("tile-invalidated", async (event) => {
    const context = await event.getData("context2d");
    if (context) await event.setData(context, "context2d");
  });
  const repaint = () => { viewer.world.requestInvalidate(true); remember(); };
  const select = (k, travel = false) => {
    state.selected = k;
    showTile(image, tiles, k, select);
    if (k >= 0 && travel) {
      const [height, width] = [Number(tiles.height[k]), Number(tiles.width[k])];
      const room = Math.min(byId("image").clientWidth / width, byId("image").clientHeight / height);
      goTo(tiles.y[k] - tiles.origin.y + height / 2, tiles.x[k] - tiles.origin.x + width / 2, 0.6 * room);
    }
    redraw();
  };
  const follow = (hash, now) => {
    const place = readPlace(hash);
    Object.assign(state.plane, place.plane);
    if (place.layers) for (const name of Object.keys(state.layers)) state.layers[name] = place.layers.includes(name);
    if (place.channels.length) {
      image.channels.forEach((channel, k) => {
        const said = place.channels.find((c) => c.k === k);
        channel.active = !!said;
        if (said?.high !== undefined) [channel.low, channel.high] = [said.low, said.high];
      });
    }
    channelControls(image, repaint, (k) => brightness(image, k, state.plane));
    planeControls(image, state, repaint);
    layerControls(state.layers, tiles, redraw);
    const k = place.tile !== null && tiles ? tiles.tile.indexOf(place.tile) : -1;
    select(k, k >= 0 && place.y === null);
    if (place.y !== null && place.x !== null) goTo(place.y, place.x, place.zoom, now);
  };

  showFacts(image, tiles);
  follow(window.location.hash, true);
  for (const event of ["update-viewport", "resize"]) viewer.addHandler(event, redraw);
  viewer.addHandler("canvas-click", (event) => {
    if (!event.quick || !tiles) return;
    const at = toImage(event.position);
    select(tileAt(tiles, at.y, at.x));
  });
  viewer.addHandler("canvas-key", (event) => {
    if (["r", "R", "f"].includes(event.originalEvent.key)) event.preventDefaultAction = true; // turns, flips
  });
  viewer.addHandler("tile-load-failed", (event) => showMessage(`pixels cannot be read: ${event.message}`));
  window.addEventListener("hashchange", () => { follow(window.location.hash, false); repaint(); });
  const ready = () => { document.body.dataset.ready = String(item.getFullyLoaded()); };
  item.addHandler("fully-loaded-change", ready);
  ready();

  byId("home").onclick = () => viewer.viewport.goHome();
  byId("share").onclick = () => navigator.clipboard.writeText(new URL(link(), window.location.href).href);
  byId("search").onsubmit = (event) => {
    event.preventDefault();
    const wanted = byId("find").value;
    const exact = tiles.tile.indexOf(wanted);
    select(exact >= 0 ? exact : tiles.tile.findIndex((name) => name.includes(wanted)), true);
  };
  new OpenSeadragon.MouseTracker({
    element: viewer.container,
    moveHandler: (event) => {
      const at = toImage(event.position);
      byId("cursor").textContent = cursorText(state, Math.floor(at.y), Math.floor(at.x));
    },
  });
  redraw();
}

// Where the pointer is, and the values there, where the finest pixels are at hand.
function cursorText({ image, plane }, y, x) {
  if (y < 0 || x < 0 || y >= image.height || x >= image.width) return "";
  const words = [`y ${y}, x ${x} px`];
  const { chunkHeight, chunkWidth } = image.levels[0];
  const [row, col] = [Math.floor(y / chunkHeight), Math.floor(x / chunkWidth)];
  const values = image.channels.map((c, k) => {
    const chunk = c.active ? image.chunks.peek(0, row, col, { ...plane, c: k }) : undefined;
    return chunk?.data[(y - row * chunkHeight) * chunk.stride + x - col * chunkWidth];
  });
  const known = values.filter((v) => v !== undefined);
  if (known.length) words.push(known.join(", "));
  return words.join(" · ");
}

function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
}

function reasons(error) {
  return error.cause ? `${error.message}: ${reasons(error.cause)}` : error.message;
}

start().catch((error) => showMessage(`This mosaic cannot be shown: ${reasons(error)}`));
