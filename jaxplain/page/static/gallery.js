"use strict";
// The grid of thumbnails. What is shown stands in the address, behind "#"; all texts are put in as
// text. Numbers and names are in data.js, a record that is opened in detail.js.

const entries = GALLERY.entries;
const total = entries.id.length;
const controls = document.getElementById("controls");
const grid = document.getElementById("grid");
const FIELDS = ["method", "class", "right", "hit", "sort", "down", "from", "to", "q"];
const BATCH = 60; // thumbnails that are added when the end of the page comes near

let state = new URLSearchParams();
let chosen = []; // numbers of the entries that are shown, in order
let drawn = 0; // how many of them have a thumbnail
let opened = false; // whether this page opened the record that is shown, so that Back closes it

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function number(value) {
  return value === null ? "unknown" : String(Number(value.toPrecision(3)));
}

function method() {
  const asked = Number(state.get("method"));
  return Number.isInteger(asked) && asked >= 0 && asked < GALLERY.methods.length ? asked : 0;
}

function measure(name, i) {
  const values = entries[name][i];
  return Array.isArray(values) ? values[method()] : values;
}

function known(name) {
  return entries[name].some((value) => (Array.isArray(value) ? value.some((v) => v !== null) : value !== null));
}

function target(i) {
  return GALLERY.targets[entries.target[i]];
}

// -- the address ------------------------------------------------------------------------------

function address(changes) {
  const next = new URLSearchParams(state);
  for (const [key, value] of Object.entries(changes)) {
    if (value === "" || value === null) next.delete(key);
    else next.set(key, value);
  }
  return "#" + next.toString();
}

function read() {
  const before = state;
  state = new URLSearchParams(location.hash.slice(1));
  for (const name of FIELDS) {
    const field = controls.elements[name];
    if (field.value !== (state.get(name) || "")) field.value = state.get(name) || "";
  }
  if (before === null || FIELDS.some((name) => before.get(name) !== state.get(name)) || !drawn) choose();
  const record = Number(state.get("record"));
  const there = state.has("record") && Number.isInteger(record) && record >= 0 && record < total;
  if (there) openEntry(record);
  else closeEntry();
}

// -- what is shown ------------------------------------------------------------------------------

function choose() {
  const q = (state.get("q") || "").toLowerCase();
  const sort = ["score", "concentration", "agreement"].includes(state.get("sort")) ? state.get("sort") : "";
  const from = state.get("from") ? Number(state.get("from")) : NaN;
  const to = state.get("to") ? Number(state.get("to")) : NaN;
  controls.elements.from.disabled = controls.elements.to.disabled = !sort;
  chosen = [];
  for (let i = 0; i < total; i++) {
    if (state.has("class") && String(entries.target[i]) !== state.get("class")) continue;
    if (state.has("right") && entries.right[i] !== (state.get("right") === "1")) continue;
    if (state.has("hit") && entries.hit[i][method()] !== (state.get("hit") === "1")) continue;
    if (sort) {
      const value = measure(sort, i);
      if (!isNaN(from) && !(value !== null && value >= from)) continue;
      if (!isNaN(to) && !(value !== null && value <= to)) continue;
    }
    if (q && !words(i).includes(q)) continue;
    chosen.push(i);
  }
  if (sort) {
    const sign = state.get("down") ? -1 : 1;
    const unknown = (i) => (measure(sort, i) === null ? 1 : 0); // at the end, in either order
    chosen.sort((a, b) => unknown(a) - unknown(b) || sign * (measure(sort, a) - measure(sort, b)) || a - b);
  } else if (state.get("down")) chosen.reverse();
  document.getElementById("count").textContent =
    chosen.length === total ? `${total} maps` : `${chosen.length} of ${total} maps`;
  grid.replaceChildren();
  drawn = 0;
  grow();
}

function words(i) {
  const labels = entries.labels[i].map((label) => GALLERY.labels[label]);
  const predicted = entries.predicted[i] === null ? "" : GALLERY.outputs[entries.predicted[i]];
  return [entries.id[i], target(i), predicted, ...labels].join("\n").toLowerCase();
}

function grow() {
  const end = Math.min(drawn + BATCH, chosen.length);
  const added = document.createDocumentFragment();
  for (; drawn < end; drawn++) added.append(card(chosen[drawn]));
  grid.append(added);
}

function card(i) {
  const item = element("li");
  const link = element("a");
  link.href = address({ record: i });
  link.dataset.entry = i;
  const image = element("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.width = image.height = 176;
  image.alt = "";
  image.src = `thumbnails/${i}-${method()}.jpg`;
  const about = element("span", undefined, "about");
  const said = [];
  if (entries.score[i] !== null) said.push(element("span", `score ${number(entries.score[i])}`));
  if (entries.right[i] !== null) said.push(verdict(entries.right[i], "right", "wrong"));
  const hit = entries.hit[i][method()];
  if (hit !== null) said.push(verdict(hit, "hit", "miss"));
  const sort = state.get("sort");
  if (sort === "concentration" || sort === "agreement") said.push(element("span", `${sort} ${number(measure(sort, i))}`));
  said.forEach((one) => about.append(one, " "));
  link.append(image, element("span", target(i), "class"), element("span", entries.id[i], "id"), about);
  item.append(link);
  return item;
}

function verdict(good, yes, no) {
  return element("span", good ? yes : no, good ? "good" : "bad");
}

// -- keys -----------------------------------------------------------------------------------------

function move(link, key) {
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const cards = [...grid.querySelectorAll("a")];
  let next = cards.indexOf(link) + steps[key];
  if (next >= cards.length && drawn < chosen.length) {
    grow();
    cards.push(...[...grid.querySelectorAll("a")].slice(cards.length));
  }
  next = Math.min(Math.max(next, 0), cards.length - 1);
  cards[next].focus();
}

grid.addEventListener("keydown", (event) => {
  if (!/^Arrow/.test(event.key) || event.altKey || event.ctrlKey || event.metaKey) return;
  const link = event.target.closest("a");
  if (!link) return;
  event.preventDefault();
  move(link, event.key);
});
grid.addEventListener("click", (event) => {
  if (event.target.closest("a")) opened = true;
});

// -- the start --------------------------------------------------------------------------------------

function option(value, text) {
  const made = element("option", text);
  made.value = value;
  return made;
}

function start() {
  document.title = `${GALLERY.title}: gallery of maps`;
  document.getElementById("title").textContent = GALLERY.title;
  const run = GALLERY.run;
  const state_of_run = run.finished ? "" : " The run is not finished.";
  document.getElementById("summary").textContent =
    `Maps of ${run.shown} images, of ${run.records} in the run.${state_of_run}`;
  controls.elements.method.append(...GALLERY.methods.map((one, i) => option(i ? i : "", one.title)));
  const counts = new Map();
  for (const one of entries.target) counts.set(one, (counts.get(one) || 0) + 1);
  const sorted = [...counts].sort((a, b) => GALLERY.targets[a[0]].localeCompare(GALLERY.targets[b[0]]));
  controls.elements.class.append(
    option("", "all classes"),
    ...sorted.map(([one, count]) => option(one, `${GALLERY.targets[one]} (${count})`)),
  );
  for (const one of document.querySelectorAll("[data-needs]"))
    if (!known(one.dataset.needs)) one.hidden = one.disabled = true;
  const missing = document.getElementById("missing");
  missing.hidden = !GALLERY.failures.length;
  missing.querySelector("summary").textContent = `${GALLERY.failures.length} records are not shown`;
  missing.querySelector("ul").append(...GALLERY.failures.map(([id, why]) => element("li", `${id}: ${why}`)));
  document.getElementById("unknown").append(...GALLERY.unknown.map((one) => element("li", one)));
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("change", changed);
  controls.elements.q.addEventListener("input", () => location.replace(address({ q: controls.elements.q.value })));
  document.getElementById("reset").addEventListener("click", () => (location.hash = ""));
  addEventListener("hashchange", read);
  new IntersectionObserver((seen) => {
    if (seen.some((one) => one.isIntersecting)) grow();
  }, { rootMargin: "1200px" }).observe(document.getElementById("more"));
  read();
}

function changed(event) {
  const field = event.target;
  if (field.name && field.name !== "q") location.hash = address({ [field.name]: field.value });
}

start();
