// Tasks: a weight for each, and the quality that is expected of it at both budgets.

import { byId, digits, make, quality } from "./dom.js";

const MOST = 4;
const STEP = 0.25;

/** Show the tasks of a model; `moved` is called when a weight has. */
export function showTasks(state, moved) {
  const names = Object.keys(state.detail.task_details);
  state.weights = Object.fromEntries(names.map((name) => [name, 1]));
  byId("equal").hidden = names.length < 2;
  byId("tasks").replaceChildren(...names.map((name, number) => {
    const task = state.detail.task_details[name];
    const output = make("output", { for: `weight-${number}` }, "1");
    const slider = make("input", {
      type: "range", id: `weight-${number}`, min: 0, max: MOST, step: STEP, value: 1, "data-task": name,
      input: (event) => {
        state.weights[name] = event.target.valueAsNumber;
        output.textContent = digits(event.target.valueAsNumber);
        moved();
      },
    });
    const label = make("label", { for: `weight-${number}` }, name.replaceAll("_", " "));
    return make(
      "div", { class: "task", "data-task": name },
      make("div", { class: "slide" }, ...(names.length > 1 ? [label, slider, output] : [make("span", {}, label.textContent)])),
      bar("a", task), bar("b", task),
    );
  }));
}

/** Give all tasks the same weight. */
export function weighEqually(moved) {
  for (const slider of document.querySelectorAll("#tasks input")) {
    slider.value = 1;
    slider.dispatchEvent(new Event("input"));
  }
  moved();
}

/** Show what is expected of the tasks by two receipts, of which each may be null. */
export function showExpected(picks) {
  for (const row of document.querySelectorAll("#tasks .task")) {
    for (const [side, receipt] of Object.entries(picks)) {
      const found = receipt?.tasks[row.dataset.task];
      const bars = row.querySelector(`.expected.${side}`);
      bars.querySelector(".fill").style.width = `${100 * Math.min(1, Math.max(0, found?.retention ?? 0))}%`;
      bars.querySelector(".figure").textContent = found ? quality(found.retention) : "–";
      bars.title = found
        ? `${found.metric} ${digits(found.expected)}, standard error ${digits(found.stderr)}, n ${found.n}`
        : "";
    }
  }
}

function bar(side, task) {
  return make(
    "div", { class: `expected ${side}` },
    make("span", { class: "unseen" }, `${side.toUpperCase()}, share of ${task.metric} ${digits(task.score)}: `),
    make("span", { class: "rail", "aria-hidden": "true" }, make("span", { class: "fill" })),
    make("span", { class: "figure" }, "–"),
  );
}
