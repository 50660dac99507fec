"use strict";
// Elements out of text. Whatever a record says becomes text, never markup: nothing here, nor elsewhere, reads HTML.

const rollbench = {};

// What steers the direction of writing or cannot be seen, as compare.plain shows it in a terminal.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}]/gu;

function shown(text) {
  return String(text).replace(UNSEEN, (c) => (c === "\n" ? c : "\ufffd"));
}

// element("a", {href: "#x", class: "y"}, "text", child, …)
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : shown(value));
  }
  made.append(...children.flat().map((child) => (child instanceof Node ? child : document.createTextNode(shown(child)))));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A number as axes and read-outs say it: 2M for 2,000,000.
function quantity(value) {
  if (value === null || value === undefined) return "";
  for (const [size, unit, letter] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / unit).toPrecision(4))}${letter}`;
  }
  return String(Number(value.toPrecision(4)));
}
