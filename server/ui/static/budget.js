// Two budgets, the subnets that they pick, and the front of the present preferences.

import { post } from "./api.js";
import { announce, byId, latest, make, ms, percent, quality, short, subnetText } from "./dom.js";
import { Front } from "./front.js";
import { showExpected } from "./tasks.js";

export const SIDES = ["a", "b"];
const START = { a: 0.3, b: 1 };
const NUM_POINTS = 24;
const PAUSE_MS = 250; // of sliders, before the front is asked anew
const ANY_QUALITY = 1e-9;

const ROWS = [
  ["Compute", (receipt) => percent(receipt.fraction)],
  ["FLOPs", (receipt) => short(receipt.flops)],
  ["Quality", (receipt) => quality(receipt.quality), (receipt) => error(receipt.quality_stderr)],
  ["Predicted time", (receipt) => ms(receipt.predicted_run_ms)],
  ["Memory", (receipt) => short(receipt.bytes, "B")],
];

/** The section "Budget" of a page's state; `moved` is called when a pick has changed. */
export class Budgets {
  #state;
  #moved;
  #front = new Front(byId("front"));
  #timer = 0;

  constructor(state, moved) {
    this.#state = state;
    this.#moved = moved;
    for (const side of SIDES) {
      byId(`budget-${side}`).addEventListener("input", (event) => {
        state.fractions[side] = this.#shareAt(Number(event.target.value));
        this.#pick(side);
      });
    }
    byId("tokens").addEventListener("change", (event) => {
      if (!event.target.reportValidity()) return;
      state.tokens = event.target.valueAsNumber;
      this.refresh();
    });
  }

  /** Ask everything anew: of another model, other weights or lengths. */
  async refresh() {
    const cheapest = await post("v1/plan", { ...question(this.#state), budget: { min_quality: ANY_QUALITY } });
    this.#state.lowest = cheapest.receipt.fraction;
    this.#state.whole = cheapest.receipt.flops / cheapest.receipt.fraction;
    this.#sweep();
    SIDES.forEach((side) => this.#pick(side));
  }

  /** Weights have moved: pick anew at once, draw the front when they rest. */
  reweigh() {
    SIDES.forEach((side) => this.#pick(side));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#sweep(), PAUSE_MS);
  }

  /** Start with another model. */
  async open(detail) {
    const lengths = Object.values(detail.inputs).filter((input) => input.kind === "text");
    byId("tokens-row").hidden = !lengths.length;
    this.#state.tokens = null;
    if (lengths.length) {
      const field = byId("tokens");
      field.max = Math.min(...lengths.map((input) => input.max_length));
      field.value = Math.min(field.value, field.max);
      this.#state.tokens = field.valueAsNumber;
    }
    Object.assign(this.#state.fractions, START);
    await this.refresh();
  }

  #shareAt(position) {
    return this.#state.lowest ** (1 - position / 100);
  }

  #positionOf(share) {
    return 100 * (1 - Math.log(share) / Math.log(this.#state.lowest));
  }

  #pick = byEach((side) => latest(async () => {
    const state = this.#state;
    const share = Math.max(state.lowest, state.fractions[side]);
    const slider = byId(`budget-${side}`);
    slider.value = this.#positionOf(share);
    byId(`budget-${side}-out`).textContent = percent(share);
    try {
      const { receipt } = await post("v1/plan", { ...question(state), budget: limit(share) });
      state.picks[side] = receipt;
      byId(`subnet-${side}`).textContent = subnetText(receipt.subnet);
      this.#front.pick(side, receipt, share * state.whole);
      slider.setAttribute("aria-valuetext", told(share, receipt));
      announce(`${side.toUpperCase()}: ${told(share, receipt)}`);
    } catch (problem) {
      state.picks[side] = null;
      byId(`subnet-${side}`).textContent = problem.message;
      this.#front.pick(side, null);
    }
    showPicks(state.picks);
    showExpected(state.picks);
    this.#moved(side);
  }));

  #sweep = latest(async () => {
    const { lowest, detail } = this.#state;
    const found = new Map();
    for (let i = 0; i < NUM_POINTS; i += 1) {
      const share = lowest ** (1 - i / (NUM_POINTS - 1));
      const answer = await post("v1/plan", { ...question(this.#state), budget: limit(share) });
      if (detail !== this.#state.detail) return;
      found.set(answer.receipt.flops, answer.receipt);
    }
    const points = [...found.values()].sort((one, other) => one.flops - other.flops);
    this.#front.show(points);
    byId("front-caption").textContent =
      `${points.length} of ${short(detail.num_subnets)} subnets: the best for these weights at ${NUM_POINTS} ` +
      "budgets. Dashed: the budgets.";
  });
}

/** Return what a plan and an answer are asked with, but for the budget. */
export function question(state) {
  const weights = Object.keys(state.weights).length > 1 ? { preferences: { ...state.weights } } : {};
  return { model: state.detail.id, ...weights, ...(state.tokens ? { tokens: state.tokens } : {}) };
}

/** Return a ceiling that the subnet of just this share meets, whatever rounding did. */
export const limit = (share) => ({ fraction: Math.min(1, share * (1 + 1e-9)) });

function byEach(makeOne) {
  const made = Object.fromEntries(SIDES.map((side) => [side, makeOne(side)]));
  return (side) => made[side]();
}

function told(share, receipt) {
  return `${percent(share)} of the compute: ${short(receipt.flops, "FLOPs")}, expected quality ` +
    `${quality(receipt.quality)}, ${ms(receipt.predicted_run_ms)}`;
}

function error(stderr) {
  return stderr ? `± ${(100 * stderr).toFixed(1)}` : null;
}

function showPicks(picks) {
  byId("picks").replaceChildren(...ROWS.map(([name, value, more]) => make(
    "tr", {}, make("th", { scope: "row" }, name),
    ...SIDES.map((side) => {
      const receipt = picks[side];
      const extra = receipt && more ? more(receipt) : null;
      return make("td", { class: side }, receipt ? value(receipt) : "–",
        extra && make("small", { class: "faint" }, ` ${extra}`));
    }),
  )));
}
