// Wires the page: the model that is chosen, and what follows when it or a slider changes.

import { watchAdmin } from "./admin.js";
import { get, onRefused, useKey } from "./api.js";
import { Asking } from "./ask.js";
import { Budgets } from "./budget.js";
import { byId, make, short } from "./dom.js";
import { watchLoad } from "./load.js";
import { showTasks, weighEqually } from "./tasks.js";

// What the sections share. Shares are of the compute of the largest subnet.
const state = {
  detail: null, // of the model that is chosen
  weights: {}, // by task
  tokens: null, // length of a text that plans are for; null for models without texts
  lowest: 1, // share of the cheapest subnet
  whole: 1, // FLOPs of the largest
  fractions: { a: 0.3, b: 1 }, // the budgets
  picks: { a: null, b: null }, // their receipts
};
const asking = new Asking(state);
const budgets = new Budgets(state, () => asking.follow());

async function start() {
  try {
    const { data } = await get("v1/models");
    const select = byId("model");
    const before = select.value || new URLSearchParams(location.search).get("model");
    select.replaceChildren(...data.map((one) => make("option", { value: one.id }, one.id)));
    if (data.some((one) => one.id === before)) select.value = before;
    await open(select.value);
    byId("main").hidden = false;
  } catch (problem) {
    tell(problem);
  }
}

async function open(id) {
  try {
    const detail = await get(`v1/models/${encodeURIComponent(id)}`);
    state.detail = detail;
    state.picks = { a: null, b: null };
    byId("facts").textContent = `${detail.family}, ${detail.tasks.length} ` +
      `${detail.tasks.length === 1 ? "task" : "tasks"}, ${short(detail.num_subnets)} subnets in one set of weights`;
    byId("main").hidden = false;
    asking.open(detail);
    showTasks(state, () => budgets.reweigh());
    await budgets.open(detail);
    tell(null);
  } catch (problem) {
    tell(problem);
  }
}

function tell(problem) {
  byId("problem").hidden = problem === null;
  byId("problem").textContent = problem?.message ?? "";
}

function askForKey(why) {
  if (why) byId("key-why").textContent = `${why}. It is kept in the memory of this page alone.`;
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
  byId("key").focus();
}

onRefused((problem) => askForKey(problem.message));
byId("key-open").addEventListener("click", () => askForKey(null));
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  byId("key").value = "";
  byId("key-dialog").close();
  start();
});
byId("model").addEventListener("change", (event) => open(event.target.value));
byId("equal").addEventListener("click", () => weighEqually(() => budgets.reweigh()));
watchLoad(state);
watchAdmin();
start();
