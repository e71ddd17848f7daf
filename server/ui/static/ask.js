// Ask the model at both budgets, one after the other, so that neither waits for the other.

import { post } from "./api.js";
import { showAnswer, showProblem } from "./answers.js";
import { SIDES, limit, question } from "./budget.js";
import { byId, latest, make, percent } from "./dom.js";
import { dropZone } from "./pictures.js";

const QUERY = "How do I reset my password?";
const DOCUMENTS = [
  "I forgot my login and cannot get into my account.",
  "The weather is fine today.",
  "Choose a new passphrase under Settings, Security.",
  "Our offices are closed on public holidays.",
  "Passwords must have at least twelve characters.",
  "A cat sat on the mat and watched the rain.",
  "Support can unlock an account that was blocked after wrong attempts.",
  "Shares of software makers rose on Monday.",
];

/** Return how a model is asked: "rank" texts by a query, or "infer" on its inputs. */
export function modeOf(detail) {
  const inputs = Object.values(detail.inputs);
  const kinds = new Set(Object.values(detail.task_details).map((task) => task.kind));
  const ranks = kinds.has("embedding") || (kinds.has("score") && inputs.length === 2);
  return inputs.every((input) => input.kind === "text") && ranks ? "rank" : "infer";
}

/** The section "Ask". */
export class Asking {
  #state;
  #mode = "infer";
  #read = () => null; // what is asked, null while something is missing
  #hasAsked = false;
  #image = null; // of the one image input: where it is seen

  constructor(state) {
    this.#state = state;
    byId("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    byId("ask-form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.ask();
    });
    byId("stages").addEventListener("change", () => this.ask());
  }

  /** Show the inputs of another model. */
  open(detail) {
    this.#mode = modeOf(detail);
    this.#hasAsked = false;
    this.#image = null;
    byId("answers").replaceChildren();
    byId("ask-state").textContent = "";
    byId("stages-row").hidden = this.#mode !== "rank";
    const form = this.#mode === "rank" ? this.#texts() : this.#inputs(detail);
    byId("inputs").replaceChildren(...form);
  }

  /** A budget or a weight has moved: answer again, if an answer is there and this is wanted. */
  follow() {
    if (this.#hasAsked && byId("follow").checked) this.#send();
  }

  /** Answer what the form has. */
  ask() {
    if (this.#read() === null) {
      byId("ask-state").textContent = this.#mode === "rank" ? "Type texts first." : "Give the inputs first.";
      return;
    }
    this.#hasAsked = true;
    this.#send();
  }

  #texts() {
    const query = make("input", { id: "query", type: "text" });
    query.value = QUERY;
    const documents = make("textarea", { id: "documents", rows: 8, spellcheck: "false" });
    documents.value = DOCUMENTS.join("\n");
    this.#read = () => {
      const texts = documents.value.split("\n").map((line) => line.trim()).filter(Boolean);
      return query.value.trim() && texts.length ? { query: query.value.trim(), documents: texts } : null;
    };
    return [
      make("label", { for: "query" }, "Query"), query,
      make("label", { for: "documents" }, "Texts to rank by it, one on each line"), documents,
    ];
  }

  #inputs(detail) {
    const readers = {};
    const parts = Object.entries(detail.inputs).flatMap(([name, input]) => {
      if (input.kind === "image") {
        const zone = dropZone(name, input, () => this.ask());
        readers[name] = () => zone.value;
        this.#image ??= zone;
        return [zone.element];
      }
      if (input.kind === "text") {
        const field = make("textarea", { id: `input-${name}`, rows: 3 });
        readers[name] = () => field.value.trim() || null;
        return [make("label", { for: field.id }, name), field];
      }
      if (input.required) readers[name] = () => null;
      return [make("p", { class: "faint" }, `${name} is a tensor ${JSON.stringify(input.shape)}: ask by the API.`)];
    });
    this.#read = () => {
      const found = Object.entries(readers).map(([name, read]) => [name, read()]);
      const isWhole = found.every(([name, value]) => value !== null || !detail.inputs[name].required);
      return isWhole ? { inputs: Object.fromEntries(found.filter(([, value]) => value !== null)) } : null;
    };
    return parts;
  }

  #send = latest(async () => {
    const state = this.#state;
    const { detail } = state;
    const asked = this.#read();
    const answers = {};
    byId("ask-state").textContent = "Asking …";
    for (const side of SIDES) {
      const share = Math.max(state.lowest, state.fractions[side]);
      const { tokens, ...shared } = question(state);
      // Strict: what this budget buys, whoever else asks just now.
      const body = { ...shared, ...asked, budget: { ...limit(share), strict: true } };
      if (this.#mode === "rank" && byId("stages").checked) body.in_stages = true;
      try {
        answers[side] = await post(this.#mode === "rank" ? "v1/rerank" : "v1/infer", body);
      } catch (problem) {
        answers[side] = { problem };
      }
      if (state.detail !== detail) return;
    }
    const shown = SIDES.map((side) => {
      const share = percent(Math.max(state.lowest, state.fractions[side]));
      const other = answers[side === "a" ? "b" : "a"];
      if (answers[side].problem) return showProblem(side, share, answers[side].problem);
      return showAnswer(side, share, answers[side], other.problem ? null : other, asked, this.#image);
    });
    byId("answers").replaceChildren(...shown);
    byId("ask-state").textContent = "Answered.";
  });
}
