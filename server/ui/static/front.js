// The front of a model, expected quality over FLOPs, with the subnets that two budgets pick.

import { draw, quality, short } from "./dom.js";

const HEIGHT = 300;
const EDGE = { left: 52, right: 18, top: 18, bottom: 40 };

/** A chart in a container; it is drawn anew when the container's width changes. */
export class Front {
  #container;
  #points = [];
  #picks = {};
  #marks = {};
  #x = () => 0;
  #y = () => 0;

  constructor(container) {
    this.#container = container;
    new ResizeObserver(() => this.#redraw()).observe(container);
  }

  /** Show points of `flops` and `quality`, cheapest first. */
  show(points) {
    this.#points = points;
    this.#redraw();
  }

  /** Move a pick to its receipt's place; its budget is in FLOPs. Null: there is none. */
  pick(name, receipt, budget) {
    this.#picks[name] = receipt && { receipt, budget };
    if (receipt && this.#isOutside(receipt)) this.#redraw();
    else this.#place(name);
  }

  #isOutside({ flops, quality: share }) {
    const { x, y } = this.#spans();
    return flops < x[0] || flops > x[1] || share < y[0] || share > y[1] || !this.#marks.a;
  }

  #spans() {
    const seen = [
      ...this.#points,
      ...Object.values(this.#picks).filter(Boolean).map((pick) => pick.receipt),
    ];
    if (!seen.length) return { x: [1, 10], y: [0, 1] };
    const flops = seen.map((point) => point.flops);
    const shares = seen.map((point) => point.quality);
    const [least, most] = [Math.min(...shares), Math.max(...shares)];
    const room = Math.max(0.01, 0.12 * (most - least));
    return {
      x: [Math.min(...flops) / 1.15, Math.max(...flops) * 1.15],
      y: [least - room, most + room],
    };
  }

  #redraw() {
    const width = this.#container.clientWidth;
    if (!width || !this.#points.length) return;
    const { x, y } = this.#spans();
    const across = width - EDGE.left - EDGE.right;
    const down = HEIGHT - EDGE.top - EDGE.bottom;
    this.#x = (flops) => EDGE.left + across * (Math.log(flops / x[0]) / Math.log(x[1] / x[0]));
    this.#y = (share) => EDGE.top + down * (1 - (share - y[0]) / (y[1] - y[0]));
    const bottom = HEIGHT - EDGE.bottom;
    this.#marks = { a: this.#mark("a"), b: this.#mark("b") };
    this.#container.replaceChildren(
      draw(
        "svg",
        { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": this.#told() },
        ...this.#grid(x, y, width, bottom),
        draw("path", { class: "area", d: `${this.#steps()} V${bottom} H${this.#x(this.#points[0].flops)} Z` }),
        draw("path", { class: "curve", d: this.#steps() }),
        ...this.#points.map((point) =>
          draw("circle", { class: "point", r: 2.5, cx: this.#x(point.flops), cy: this.#y(point.quality) })),
        this.#marks.b.all,
        this.#marks.a.all,
      ),
    );
    this.#place("a");
    this.#place("b");
  }

  /** Return the path of the best quality that each number of FLOPs buys. */
  #steps() {
    const [first, ...rest] = this.#points;
    const start = `M${this.#x(first.flops)} ${this.#y(first.quality)}`;
    return start + rest.map((one) => ` H${this.#x(one.flops)} V${this.#y(one.quality)}`).join("");
  }

  #grid(x, y, width, bottom) {
    const parts = [];
    for (const share of ticks(y[0], y[1], 5)) {
      parts.push(
        draw("line", { class: "rule", x1: EDGE.left, x2: width - EDGE.right, y1: this.#y(share), y2: this.#y(share) }),
        text(EDGE.left - 8, this.#y(share) + 4, quality(share).replace(".0 %", " %"), "end"),
      );
    }
    let last = -Infinity;
    for (const flops of decades(x[0], x[1])) {
      if (this.#x(flops) - last < 64 || this.#x(flops) > width - EDGE.right - 20) continue;
      last = this.#x(flops);
      parts.push(
        draw("line", { class: "tick", x1: last, x2: last, y1: bottom, y2: bottom + 5 }),
        text(last, bottom + 18, short(flops), "middle"),
      );
    }
    parts.push(
      draw("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: bottom, y2: bottom }),
      text(width - EDGE.right, HEIGHT - 6, "FLOPs for one input", "end"),
    );
    return parts;
  }

  #mark(name) {
    const limit = draw("line", { class: `limit ${name}`, y1: EDGE.top, y2: HEIGHT - EDGE.bottom });
    const dot = draw(
      "g",
      { class: `dot ${name}` },
      draw("circle", { r: 10 }),
      draw("text", { "text-anchor": "middle", y: 4 }, name.toUpperCase()),
    );
    return { limit, dot, all: draw("g", { class: "pick", "data-pick": name }, limit, dot) };
  }

  #place(name) {
    const mark = this.#marks[name];
    if (!mark) return;
    const pick = this.#picks[name];
    mark.all.toggleAttribute("hidden", !pick);
    if (!pick) return;
    const { receipt, budget } = pick;
    const right = this.#x(this.#spans().x[1]);
    mark.limit.style.transform = `translateX(${Math.min(right, this.#x(budget))}px)`;
    mark.dot.style.transform = `translate(${this.#x(receipt.flops)}px, ${this.#y(receipt.quality)}px)`;
    mark.all.setAttribute("data-flops", receipt.flops);
    mark.all.closest("svg")?.setAttribute("aria-label", this.#told());
  }

  #told() {
    const picks = Object.entries(this.#picks).filter(([, pick]) => pick).map(([name, { receipt }]) =>
      `${name.toUpperCase()}: ${short(receipt.flops, "FLOPs")}, quality ${quality(receipt.quality)}`);
    return `Expected quality over FLOPs, ${this.#points.length} subnets. ${picks.join(". ")}`;
  }
}

function text(x, y, content, anchor) {
  return draw("text", { class: "label", x, y, "text-anchor": anchor }, content);
}

/** Return round numbers between two. */
function ticks(low, high, most) {
  const raw = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

/** Return 1, 2 and 5 of each power of ten between two numbers. */
function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of [1, 2, 5]) {
      const at = factor * 10 ** power;
      if (at >= low && at <= high) found.push(at);
    }
  }
  return found;
}
