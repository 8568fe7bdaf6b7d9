// The page's view. It decodes the label map and draws it over the picture, so that opacity, hovering and switching classes
// on and off ask the server nothing. What is asked: clicks, boxes and files, by the events "pointed" and "wanted".
// Given by gr.HTML: element, props, trigger, watch.
const find = (selector) => element.querySelector(selector);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const NOTHING = 65535;
// What is pointed at without a word; no word is blank.
const NO_WORD = " ";
const NO_WORD_TEXT = "no word: one mask";
// Small pictures are drawn on a canvas of at least so many pixels, so that points and boxes on them are sharp.
const LEAST_SIDE = 720;
const canvas = find("canvas");
const context = canvas.getContext("2d");

let shown = null; // the payload that is seen
let labels = null; // Uint16Array, a label for each pixel
let scores = null; // Uint8Array, 255 times the score
let picture = null;
let tint = null; // a canvas of the picture's size
let factor = 1;
let opacity = 0.5;
let cursor = null; // the pixel of the arrow keys
let corner = null; // of a box that is being drawn
let moving = null;
let answers = 0; // payloads received; a picture that is decoded late must not replace a later one
const hidden = new Set(); // names of the classes switched off; kept when words change

// "building,edifice" with a place to break the line.
const spaced = (name) => name.replace(/,\s*/g, ", ");
// "0.05 s" without one.
const unbroken = (text) => text.replace(/(\d) s\b/g, "$1\u00a0s");

function say(selector, text) {
  const node = find(selector);
  node.textContent = text;
  node.hidden = !text;
}

async function decode(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

function pixelsOf(image) {
  const copy = document.createElement("canvas");
  copy.width = image.naturalWidth;
  copy.height = image.naturalHeight;
  const drawing = copy.getContext("2d", { willReadFrequently: true });
  drawing.drawImage(image, 0, 0);
  return drawing.getImageData(0, 0, copy.width, copy.height).data;
}

async function show(payload) {
  const number = ++answers;
  const [image, map] = await Promise.all([decode(payload.picture), decode(payload.map)]);
  if (number !== answers) return;
  const values = pixelsOf(map);
  const count = payload.width * payload.height;
  labels = new Uint16Array(count);
  scores = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    labels[i] = values[4 * i] | (values[4 * i + 1] << 8);
    scores[i] = values[4 * i + 2];
  }
  if (!shown || shown.digest !== payload.digest) cursor = null;
  picture = image;
  shown = payload;
  corner = moving = null;
  factor = Math.max(1, Math.ceil(LEAST_SIDE / Math.max(payload.width, payload.height)));
  canvas.width = payload.width * factor;
  canvas.height = payload.height * factor;
  tint = document.createElement("canvas");
  tint.width = payload.width;
  tint.height = payload.height;
  listClasses();
  offerPointing();
  find(".files").hidden = Boolean(payload.mask_prompt);
  find(".answer").hidden = false;
  paint();
  draw();
  say(".error", "");
  say(".status", unbroken(payload.status));
  // Something that waits for the view, such as a test, sees here which answer is drawn.
  element.dataset.drawn = String(payload.number);
}

function listClasses() {
  const list = find(".legend ul");
  list.replaceChildren();
  for (const entry of shown.classes) {
    const item = make("li", "");
    const label = make("label", "");
    const box = make("input", "toggle");
    box.type = "checkbox";
    box.checked = !hidden.has(entry.name);
    box.dataset.name = entry.name;
    const swatch = make("span", "swatch");
    swatch.style.background = `rgb(${entry.colour.join(",")})`;
    const share = 100 * entry.share;
    const figures = `${share < 0.05 ? "<0.1" : share.toFixed(1)} %, score ${entry.score.toFixed(2)}`;
    label.append(box, swatch, make("span", "name", spaced(entry.name)), make("span", "figures", figures));
    item.append(label);
    list.append(item);
  }
  say(".absent", shown.absent.length ? `Nowhere in the picture: ${shown.absent.map(spaced).join("; ")}` : "");
}

function offerPointing() {
  const { words, masks } = shown.pointing;
  find(".pointing").hidden = !(words || masks);
  find(".no-pointing").hidden = words || masks;
  const select = find(".pointing select");
  const before = select.value;
  const entries = words ? shown.words.map((word) => [word, spaced(word)]) : [];
  if (masks) entries.push([NO_WORD, NO_WORD_TEXT]);
  select.replaceChildren(
    ...entries.map(([value, text]) => {
      const option = make("option", "", text);
      option.value = value;
      return option;
    }),
  );
  if (entries.some(([value]) => value === before)) select.value = before;
}

// The layer of colours; drawn again when classes are switched, not when the opacity changes.
function paint() {
  const drawing = tint.getContext("2d");
  const layer = drawing.createImageData(tint.width, tint.height);
  const colours = new Map();
  for (const entry of shown.classes) if (!hidden.has(entry.name)) colours.set(entry.id, entry.colour);
  for (let i = 0; i < labels.length; i++) {
    const colour = colours.get(labels[i]);
    if (!colour) continue;
    layer.data[4 * i] = colour[0];
    layer.data[4 * i + 1] = colour[1];
    layer.data[4 * i + 2] = colour[2];
    layer.data[4 * i + 3] = 255;
  }
  drawing.putImageData(layer, 0, 0);
}

function draw() {
  if (!shown) return;
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = true;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = false;
  context.drawImage(tint, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  for (const prompt of Object.values(shown.prompts || {})) drawPrompt(prompt);
  if (shown.mask_prompt) drawPrompt(shown.mask_prompt);
  if (corner && moving) drawBox([...corner, ...moving]);
  if (cursor && document.activeElement === canvas) drawCursor();
}

// Twice, dark and light, so that it is seen on any picture.
function stroke(path, colour) {
  for (const [style, width] of [["#000", 5], [colour, 2.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(path);
  }
}

// Pixel coordinates count from the middle of the first pixel.
const onCanvas = (value) => (value + 0.5) * factor;

function drawBox(box) {
  const path = new Path2D();
  const [x1, y1, x2, y2] = box.map(onCanvas);
  path.rect(x1, y1, x2 - x1, y2 - y1);
  stroke(path, "#fff");
}

function drawPrompt(prompt) {
  if (prompt.box) drawBox(prompt.box);
  (prompt.points || []).forEach(([x, y], index) => {
    const path = new Path2D();
    const isOn = !prompt.labels || prompt.labels[index] === 1;
    if (isOn) path.arc(onCanvas(x), onCanvas(y), 8, 0, 2 * Math.PI);
    else {
      path.moveTo(onCanvas(x) - 7, onCanvas(y) - 7);
      path.lineTo(onCanvas(x) + 7, onCanvas(y) + 7);
      path.moveTo(onCanvas(x) + 7, onCanvas(y) - 7);
      path.lineTo(onCanvas(x) - 7, onCanvas(y) + 7);
    }
    stroke(path, isOn ? "#5bff7a" : "#ff6a5e");
  });
}

function drawCursor() {
  const path = new Path2D();
  const [x, y] = cursor.map(onCanvas);
  path.moveTo(x - 14, y);
  path.lineTo(x + 14, y);
  path.moveTo(x, y - 14);
  path.lineTo(x, y + 14);
  stroke(path, "#ffe14d");
}

function place(event) {
  const frame = canvas.getBoundingClientRect();
  const along = (at, start, length, count) =>
    Math.min(count - 0.5, Math.max(-0.5, ((at - start) / length) * count - 0.5));
  return [
    along(event.clientX, frame.left, frame.width, shown.width),
    along(event.clientY, frame.top, frame.height, shown.height),
  ];
}

function tell([column, row]) {
  const x = Math.min(shown.width - 1, Math.max(0, Math.round(column)));
  const y = Math.min(shown.height - 1, Math.max(0, Math.round(row)));
  const index = y * shown.width + x;
  const entry = shown.classes.find((one) => one.id === labels[index]);
  const what = entry && labels[index] !== NOTHING ? `${spaced(entry.name)}, score ${(scores[index] / 255).toFixed(2)}` : "nothing";
  find(".pixel").textContent = `(${x}, ${y}): ${what}`;
}

const tool = () => find(".pointing").hidden ? "look" : [...element.querySelectorAll(".tool")].find((one) => one.checked).value;

function ask(change) {
  const word = find(".pointing select").value;
  const isMask = word === NO_WORD;
  const before = (isMask ? shown.mask_prompt : (shown.prompts || {})[word]) || {};
  const given = change({ points: [...(before.points || [])], labels: [...(before.labels || [])], box: before.box || null });
  if (isMask) trigger("pointed", { mask: given });
  else trigger("pointed", { prompts: { ...(shown.prompts || {}), [word]: given } });
  say(".status", "Asking for the mask ...");
}

function click([x, y]) {
  const label = tool() === "on" ? 1 : 0;
  ask((given) => ({ ...given, points: [...given.points, [x, y]], labels: [...given.labels, label] }));
}

function finishBox(end) {
  const [start, x, y] = [corner, end[0], end[1]];
  corner = moving = null;
  draw();
  // A click is no box.
  if (Math.abs(x - start[0]) < 1 || Math.abs(y - start[1]) < 1) return;
  const box = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
  ask((given) => ({ ...given, box }));
}

canvas.addEventListener("pointermove", (event) => {
  if (!shown) return;
  tell(place(event));
  if (corner && event.buttons) {
    moving = place(event);
    draw();
  }
});
canvas.addEventListener("pointerdown", (event) => {
  if (!shown || event.button) return;
  if (tool() === "box") {
    canvas.setPointerCapture(event.pointerId);
    corner = place(event);
  } else if (tool() !== "look") click(place(event));
});
canvas.addEventListener("pointerup", (event) => {
  if (corner && tool() === "box") finishBox(place(event));
});
canvas.addEventListener("pointercancel", () => {
  corner = moving = null;
  draw();
});
canvas.addEventListener("pointerleave", () => {
  find(".pixel").textContent = "\u00a0";
});

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (!shown) return;
  if (event.key in STEPS) {
    const far = event.shiftKey ? 10 : 1;
    cursor = cursor || [Math.floor(shown.width / 2), Math.floor(shown.height / 2)];
    cursor = [
      Math.min(shown.width - 1, Math.max(0, cursor[0] + far * STEPS[event.key][0])),
      Math.min(shown.height - 1, Math.max(0, cursor[1] + far * STEPS[event.key][1])),
    ];
    if (corner) moving = cursor;
    tell(cursor);
  } else if (event.key === "Enter" && cursor) {
    if (tool() === "box" && corner) finishBox(cursor);
    else if (tool() === "box") corner = cursor;
    else if (tool() !== "look") click(cursor);
  } else if (event.key === "Escape") corner = moving = null;
  else return;
  event.preventDefault();
  draw();
});
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", draw);

find(".opacity input").addEventListener("input", (event) => {
  opacity = event.target.value / 100;
  find(".opacity output").textContent = `${event.target.value} %`;
  draw();
});

function toggle(names, isHidden) {
  for (const name of names) {
    if (isHidden) hidden.add(name);
    else hidden.delete(name);
  }
  for (const box of element.querySelectorAll(".toggle")) box.checked = !hidden.has(box.dataset.name);
  paint();
  draw();
}
find(".legend ul").addEventListener("change", (event) => toggle([event.target.dataset.name], !event.target.checked));
find(".all").addEventListener("click", () => toggle(shown.classes.map((entry) => entry.name), false));
find(".none").addEventListener("click", () => toggle(shown.classes.map((entry) => entry.name), true));

// One group for each view: the name decides which radio buttons exclude each other.
const group = `tool-${Math.random().toString(36).slice(2)}`;
for (const one of element.querySelectorAll(".tool")) {
  one.name = group;
  one.addEventListener("change", () => {
    corner = moving = null;
    canvas.classList.toggle("points", ["on", "beside"].includes(tool()));
    canvas.classList.toggle("boxes", tool() === "box");
    draw();
  });
}
find(".forget").addEventListener("click", () => trigger("pointed", { prompts: {} }));
for (const button of element.querySelectorAll(".files button"))
  button.addEventListener("click", () => trigger("wanted", { kind: button.dataset.kind }));

function save({ name, url }) {
  const [head, contents] = url.split(",");
  const bytes = Uint8Array.from(atob(contents), (character) => character.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: head.slice("data:".length).split(";")[0] }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function receive() {
  const payload = props.value;
  if (!payload) return;
  if (payload.error) {
    say(".error", payload.error);
    say(".status", shown ? unbroken(shown.status) : "Nothing to show yet.");
  } else if (payload.file) {
    say(".error", "");
    save(payload.file);
  } else
    show(payload).catch((error) => say(".error", `the browser cannot show this answer: ${error.message}`));
}
watch("value", receive);
receive();
