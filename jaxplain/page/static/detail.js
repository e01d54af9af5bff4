"use strict";
// A record in full: its photograph with the map of every method, and the numbers. Its script,
// records/NUMBER.js, calls galleryEntry.

const detail = document.getElementById("detail");
const loaded = new Map(); // number -> what its script says
let shown = null; // the number of the entry that is shown

function galleryEntry(number, about) {
  loaded.set(number, about);
  if (number === shown) fill(number);
}

function openEntry(i) {
  if (shown === i) return;
  shown = i;
  if (!detail.open) detail.showModal();
  const place = chosen.indexOf(i);
  document.getElementById("previous").disabled = place <= 0;
  document.getElementById("next").disabled = place < 0 || place === chosen.length - 1;
  document.getElementById("name").textContent = `${target(i)} in ${entries.id[i]}`;
  document.getElementById("facts").textContent = facts(i);
  document.getElementById("pictures").replaceChildren();
  document.getElementById("numbers").replaceChildren();
  if (loaded.has(i)) return fill(i);
  const script = element("script");
  script.src = `records/${i}.js`;
  script.onerror = () => {
    document.getElementById("facts").textContent = `The file records/${i}.js is missing from the folder of this page.`;
  };
  script.onload = () => script.remove();
  document.head.append(script);
}

function closeEntry() {
  if (shown === null) return;
  const link = grid.querySelector(`a[data-entry="${shown}"]`);
  shown = null;
  opened = false;
  detail.close();
  if (link) link.focus();
}

function facts(i) {
  const said = [];
  if (entries.score[i] !== null) said.push(`Score ${number(entries.score[i])}.`);
  if (entries.predicted[i] !== null) {
    const right = { true: ", which is right", false: ", which is wrong", null: "" }[entries.right[i]];
    said.push(`The network predicts ${GALLERY.outputs[entries.predicted[i]]}${right}.`);
  }
  if (entries.labels[i].length) said.push(`The data set says ${entries.labels[i].map((one) => GALLERY.labels[one]).join(", ")}.`);
  if (entries.agreement[i] !== null) said.push(`The methods agree by ${number(entries.agreement[i])}.`);
  said.push(`The image has ${entries.size[i][1]} × ${entries.size[i][0]} pixels.`);
  return said.join(" ");
}

function bytes(text) {
  return Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
}

function canvas([height, width, packed], method) {
  const made = element("canvas");
  made.width = width;
  made.height = height;
  const colours = bytes(method.colours);
  const picture = new ImageData(width, height);
  bytes(packed).forEach((level, at) => picture.data.set(colours.subarray(4 * level, 4 * level + 4), 4 * at));
  made.getContext("2d").putImageData(picture, 0, 0);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function figure(i, about, m) {
  const made = element("figure");
  const stack = element("div", undefined, "stack");
  const photo = element("img");
  photo.src = `pictures/${entries.record[i]}.jpg`;
  photo.alt = m === null ? `The image ${entries.id[i]}` : `Map of ${GALLERY.methods[m].title} for ${target(i)}`;
  stack.append(photo);
  if (m !== null) {
    stack.classList.add(GALLERY.methods[m].style);
    stack.append(canvas(about.maps[m], GALLERY.methods[m]));
  }
  for (const [left, top, right, bottom] of about.boxes) {
    const box = element("div", undefined, "box");
    Object.assign(box.style, { left: `${100 * left}%`, top: `${100 * top}%` });
    Object.assign(box.style, { width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    stack.append(box);
  }
  if (m !== null) {
    const point = element("div", undefined, "point");
    Object.assign(point.style, { left: `${100 * about.points[m][0]}%`, top: `${100 * about.points[m][1]}%` });
    stack.append(point);
  }
  made.append(stack, element("figcaption", m === null ? "Image" : GALLERY.methods[m].title));
  return made;
}

function row(cells, kind) {
  const made = element("tr");
  cells.forEach((cell, at) => {
    const one = element(at ? kind : "th", cell);
    if (one.tagName === "TH") one.scope = kind === "th" ? "col" : "row";
    made.append(one);
  });
  return made;
}

function fill(i) {
  const about = loaded.get(i);
  const every = GALLERY.methods.map((_, m) => m);
  document.getElementById("pictures").replaceChildren(...[null, ...every].map((m) => figure(i, about, m)));
  const rows = every.map((m) => {
    const hit = { true: "hit", false: "miss", null: "no box" }[entries.hit[i][m]];
    const values = [...about.range[m], entries.concentration[i][m]].map(number);
    return row([GALLERY.methods[m].title, ...values, hit], "td");
  });
  const head = row(["Method", "Lowest value", "Highest value", "Concentration", "Pointing"], "th");
  const [top, body] = [element("thead"), element("tbody")];
  top.append(head);
  body.append(...rows);
  document.getElementById("numbers").replaceChildren(top, body);
  dress();
}

function dress() {
  const opacity = document.getElementById("opacity").value / 100;
  for (const one of detail.querySelectorAll("canvas")) one.style.opacity = opacity;
  const wanted = document.getElementById("boxes").checked;
  for (const one of detail.querySelectorAll(".box, .point")) one.hidden = !wanted;
}

function leave() {
  if (opened) history.back();
  else location.replace(address({ record: null }));
}

function step(by) {
  const next = chosen[chosen.indexOf(shown) + by];
  if (next !== undefined) location.replace(address({ record: next }));
}

detail.addEventListener("cancel", (event) => {
  event.preventDefault();
  leave();
});
detail.addEventListener("close", () => {
  if (shown !== null) leave(); // browsers may close it without asking
});
detail.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
detail.addEventListener("click", (event) => {
  if (event.target === detail) leave(); // beside its content
});
document.getElementById("close").addEventListener("click", leave);
document.getElementById("previous").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("opacity").addEventListener("input", dress);
document.getElementById("boxes").addEventListener("change", dress);
