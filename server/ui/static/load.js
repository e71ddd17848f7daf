// What the server does at this moment, from the metrics that Prometheus reads as well.

import { metrics } from "./api.js";
import { byId, digits, draw, make, ms, quality } from "./dom.js";

const EVERY_MS = 2000;
const KEPT = 31; // samples: a minute
const TILES = [
  ["Requests each second", (now, then) => digits(rate(now, then, "rheostat_requests_total"))],
  ["Inputs inside", (now) => digits(total(now, "rheostat_queue_depth"))],
  ["Predicted wait", (now) => ms(1000 * total(now, "rheostat_backlog_seconds"))],
  ["Price of compute", (now) => digits(total(now, "rheostat_compute_price"))],
  ["Quality served", (now, then) => {
    const served = change(now, then, "rheostat_quality_served_count");
    return served ? quality(change(now, then, "rheostat_quality_served_sum") / served) : "–";
  }],
  ["Made smaller by load", (now, then) => digits(change(now, then, "rheostat_slimmed_requests_total"))],
];
const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;

/** Ask for metrics every two seconds, while the section is seen. */
export function watchLoad(state) {
  const samples = [];
  let isSeen = false;
  let isAsking = false;

  async function tick() {
    if (!isSeen || document.hidden || isAsking || !state.detail) return;
    isAsking = true;
    try {
      samples.push(parsed(await metrics()));
      samples.splice(0, samples.length - KEPT);
      show(samples, state.detail);
      byId("load-state").textContent = "The last minute, every two seconds.";
    } catch (problem) {
      byId("load-state").textContent = problem.status === 403
        ? "The key has not the scope metrics." : problem.message;
    } finally {
      isAsking = false;
    }
  }

  new IntersectionObserver(([entry]) => {
    isSeen = entry.isIntersecting;
    tick();
  }).observe(byId("load"));
  setInterval(tick, EVERY_MS);
}

function parsed(text) {
  const found = { at: performance.now() };
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (match?.[1].startsWith("rheostat_")) {
      (found[match[1]] ??= []).push({ labels: match[2] ?? "", value: Number(match[3]) });
    }
  }
  return found;
}

function total(sample, name) {
  return (sample[name] ?? []).reduce((sum, one) => sum + one.value, 0);
}

function change(now, then, name) {
  return total(now, name) - total(then, name);
}

function rate(now, then, name) {
  const seconds = (now.at - then.at) / 1000;
  return seconds ? change(now, then, name) / seconds : 0;
}

function show(samples, detail) {
  const now = samples.at(-1);
  const then = samples[0];
  byId("tiles").replaceChildren(...TILES.map(([name, read]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, read(now, then)))));
  const before = buckets(then, detail.root);
  const after = buckets(now, detail.root);
  const minute = after.map((one, i) => ({ ...one, count: one.count - (before[i]?.count ?? 0) }));
  const isLate = minute.some((one) => one.count > 0);
  drawHistogram(isLate ? minute : after, detail, isLate ? "in the last minute" : "since the start");
}

/** Return the requests of a model by the upper bound of their time in seconds. */
function buckets(sample, model) {
  const wanted = (sample.rheostat_stage_seconds_bucket ?? []).filter(({ labels }) =>
    labels.includes(`model="${model}"`) && labels.includes('stage="total"'));
  const sums = wanted
    .map(({ labels, value }) => ({ most: Number(/le="([^"]+)"/.exec(labels)[1].replace("+Inf", "Infinity")), value }))
    .sort((one, other) => one.most - other.most);
  return sums.map((one, i) => ({ most: one.most, count: one.value - (sums[i - 1]?.value ?? 0) }));
}

function drawHistogram(found, detail, when) {
  const count = found.reduce((sum, one) => sum + one.count, 0);
  const caption = byId("histogram-caption");
  if (!count) {
    byId("histogram").replaceChildren();
    caption.textContent = `Nobody has asked ${detail.id} yet.`;
    return;
  }
  const [width, height] = [byId("histogram").clientWidth, 130];
  const most = Math.max(...found.map((one) => one.count));
  const step = width / found.length;
  const bars = found.flatMap(({ most: limit, count: here }, i) => {
    const tall = here ? Math.max(2, (height - 34) * (here / most)) : 0;
    const parts = [draw("rect", {
      class: "bar", x: i * step + 1, y: height - 24 - tall, width: Math.max(1, step - 2), height: tall, rx: 2,
    }, draw("title", {}, `up to ${ms(1000 * limit)}: ${here}`))];
    if (i % (width < 500 ? 8 : 4) === 0 && Number.isFinite(limit)) {
      const anchor = i === 0 ? "start" : "middle";
      parts.push(draw("text", { class: "label", x: i === 0 ? 0 : (i + 1) * step, y: height - 6, "text-anchor": anchor },
        ms(1000 * limit)));
    }
    return parts;
  });
  const told = `${digits(count)} requests to ${detail.id} ${when}: half within ${ms(1000 * within(found, 0.5))}, ` +
    `99 % within ${ms(1000 * within(found, 0.99))}.`;
  byId("histogram").replaceChildren(draw("svg", {
    viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `Histogram of time. ${told}`,
  }, ...bars));
  caption.textContent = told;
}

/** Return the bound of the bucket in which a share of all requests is reached. */
function within(found, share) {
  const count = found.reduce((sum, one) => sum + one.count, 0);
  let seen = 0;
  for (const one of found) {
    seen += one.count;
    if (seen >= share * count) return one.most;
  }
  return Infinity;
}
