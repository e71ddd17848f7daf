// Elements, numbers for people, and the announcer of screen readers.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element of an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. Properties that are functions listen to the event of their name; `class`, `for`
 * and what has a dash or belongs to SVG are attributes. Text is never read as markup.
 */
export function make(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Make an element of SVG. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Have the screen reader say a sentence, once nothing newer came for a while. */
export const announce = (() => {
  let timer = 0;
  return (sentence) => {
    clearTimeout(timer);
    timer = setTimeout(() => { byId("live").textContent = sentence; }, 500);
  };
})();

/** Run `work` once at a time with the newest arguments; what came meanwhile but the last is dropped. */
export function latest(work) {
  let isRunning = false;
  let waiting = null;
  return async (...given) => {
    waiting = given;
    if (isRunning) return;
    isRunning = true;
    try {
      while (waiting) {
        const now = waiting;
        waiting = null;
        await work(...now);
      }
    } finally {
      isRunning = false;
    }
  };
}

const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];

/** Return a number with three digits and a prefix: 41 300 000 is "41.3 M". */
export function short(number, unit = "") {
  const [size, prefix] = PREFIXES.find(([limit]) => Math.abs(number) >= limit) ?? [1, ""];
  return `${digits(number / size)} ${prefix}${unit}`.trim();
}

/** Return a number with about three digits. */
export function digits(number) {
  const size = Math.abs(number);
  if (size >= 100 || Number.isInteger(number)) return number.toFixed(0);
  return number.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** Return a share as per cent. */
export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

/** Return a quality, of which tenths of a per cent count. */
export const quality = (share) => `${(100 * share).toFixed(1)} %`;

/** Return a time given in milliseconds; a dash where it is not known. */
export function ms(number) {
  if (number === null || number === undefined) return "–";
  return number < 1000 ? `${digits(number)} ms` : `${digits(number / 1000)} s`;
}

/** Return how much a subnet has of an axis: "depth 3, heads 0.5". */
export function subnetText(subnet) {
  const groups = new Map();
  for (const [axis, value] of Object.entries(subnet)) {
    const [head] = axis.split(".");
    groups.set(head, [...(groups.get(head) ?? []), value]);
  }
  return [...groups].map(([name, values]) => `${name} ${spread(values)}`).join(", ");
}

function spread(values) {
  if (new Set(values).size === 1) return `${values[0]}`;
  if (values.length <= 6) return values.join(" / ");
  const numbers = values.map(Number);
  return `${Math.min(...numbers)} to ${Math.max(...numbers)}`;
}
