// Answers at one budget beside those at another, each with its receipt.

import { digits, make, ms, percent, quality, short, subnetText } from "./dom.js";
import { mapFigure } from "./maps.js";

/** Return an answer with its receipt; `other` is the other budget's answer, or null. */
export function showAnswer(side, share, answer, other, asked, image) {
  const body = answer.results ? ranked(answer, other, asked) : outputs(answer, other, image);
  return card(side, share, body, receiptOf(answer.receipt));
}

/** Return what stands in an answer's place. */
export function showProblem(side, share, problem) {
  return card(side, share, make("p", { class: "problem" }, problem.message));
}

function card(side, share, ...parts) {
  return make(
    "article", { class: `answer ${side}`, "aria-label": `Answer at budget ${side.toUpperCase()}` },
    make("h3", {}, make("span", { class: `badge ${side}` }, side.toUpperCase()), ` ${share} of the compute`),
    ...parts,
  );
}

function outputs(answer, other, image) {
  const theirs = other?.outputs?.[0] ?? {};
  return make("div", { class: "outputs" }, ...Object.entries(answer.outputs[0]).map(([task, output]) => {
    if (output.probabilities) return classes(task, output, theirs[task]);
    if (output.height) return mapFigure(task, output, image);
    if (output.embedding) {
      return line(task, `a vector of ${output.embedding.length} dimensions`, null);
    }
    return line(task, digits(output.score), null);
  }));
}

function classes(task, output, theirs) {
  const sure = output.probabilities[output.label];
  const differs = theirs && theirs.label !== output.label;
  const label = make("span", {}, output.label.replaceAll("_", " "),
    differs ? make("span", { class: "differs" }, " differs") : null);
  return line(task, label, sure);
}

function line(task, value, share) {
  const fill = make("span", { class: "fill" });
  if (share !== null) fill.style.width = `${100 * share}%`;
  return make(
    "div", { class: "line" },
    make("span", { class: "faint" }, task.replaceAll("_", " ")),
    make("strong", {}, value),
    share === null ? null : make("span", { class: "rail", "aria-hidden": "true" }, fill),
    share === null ? null : make("span", { class: "figure" }, percent(share)),
  );
}

function ranked(answer, other, asked) {
  const places = new Map((other?.results ?? []).map((one, place) => [one.index, place + 1]));
  const { stages } = answer.receipt;
  return make("ol", { class: "ranked" }, ...answer.results.map((one, place) => {
    const fill = make("span", { class: "fill" });
    fill.style.width = `${100 * Math.min(1, Math.max(0, one.relevance_score))}%`;
    const elsewhere = places.get(one.index);
    return make(
      "li", {},
      make("span", { class: "text" }, asked.documents[one.index]),
      make("span", { class: "rail", "aria-hidden": "true" }, fill),
      make("span", { class: "figure" }, one.relevance_score.toFixed(3)),
      stages ? make("span", { class: "chip" }, depthOf(stages, one.index)) : null,
      elsewhere && elsewhere !== place + 1
        ? make("span", { class: "chip" }, `${elsewhere} at the other`) : null,
    );
  }));
}

/** Return how closely a document was read in a ranking in stages. */
function depthOf(stages, index) {
  const reached = stages.reached[index];
  if (reached === null) return "not read";
  const rung = stages.rungs[reached];
  const varied = Object.keys(rung).filter((axis) => new Set(stages.rungs.map((one) => one[axis])).size > 1);
  const shown = varied.length ? varied : Object.keys(rung).filter((axis) => axis === "depth");
  const text = subnetText(Object.fromEntries(shown.map((axis) => [axis, rung[axis]])));
  return text || `step ${reached + 1} of ${stages.rungs.length}`;
}

function receiptOf(receipt) {
  const { milliseconds: took } = receipt;
  const rows = [
    ["time", `${ms(took.total)} (predicted ${ms(took.predicted)}; run ${ms(took.run)}, queue ${ms(took.queue)})`],
    ["FLOPs", `${short(receipt.flops)} for an input, ${short(receipt.total_flops)} in all, ` +
      `${percent(receipt.fraction)} of the whole`],
    ["expected", `${quality(receipt.quality)} of the whole model's score` +
      (receipt.quality_stderr ? ` ± ${(100 * receipt.quality_stderr).toFixed(1)}` : "")],
    ["subnet", subnetText(receipt.subnet)],
  ];
  if (receipt.stages) {
    const runs = receipt.stages.runs.map((run) => `${run.documents} texts in ${ms(run.milliseconds)}`);
    rows.push(["stages", runs.join(", then ") || "none: the budget reads no text"]);
  }
  return make(
    "details", { class: "receipt", open: true },
    make("summary", {}, "Receipt"),
    make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("details", {}, make("summary", {}, "As JSON"),
      make("pre", { tabindex: 0 }, JSON.stringify(receipt, null, 1))),
  );
}
