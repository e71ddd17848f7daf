// Answers that are maps, laid over the image as the model sees it.

import { digits, make } from "./dom.js";

const COLD_TO_WARM = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis

/** Return a map over its image with a legend; `image` is the drop zone, null where there is none. */
export function mapFigure(task, output, image) {
  const canvas = make("canvas", {
    width: output.width, height: output.height, role: "img", "aria-label": `${task}, as a map`,
  });
  const legend = make("span", { class: "legend" });
  paint(canvas, output, legend);
  const under = image?.url ? make("img", { src: image.url, alt: "" }) : null;
  const frame = make("div", { class: "frame" }, under, canvas);
  frame.style.aspectRatio = `${output.width / output.height}`;
  const slider = make("input", {
    type: "range", min: 0, max: 1, step: 0.05, value: 0.65, "aria-label": `How much of ${task} covers the image`,
    input: (event) => { canvas.style.opacity = event.target.value; },
  });
  canvas.style.opacity = slider.value;
  return make("figure", { class: "map", "data-task": task },
    make("figcaption", {}, make("strong", {}, task), " ", legend), frame, under ? slider : null);
}

async function paint(canvas, output, legend) {
  const pen = canvas.getContext("2d");
  if (output.png) {
    pen.drawImage(await createImageBitmap(new Blob([bytesOf(output.png)], { type: "image/png" })), 0, 0);
    legend.textContent = output.labels.join(", ");
    return;
  }
  const values = new Float32Array(bytesOf(output.values).buffer);
  const size = output.width * output.height;
  const pixels = pen.createImageData(output.width, output.height);
  const [least, most] = span(values);
  const scale = most > least ? 1 / (most - least) : 0;
  for (let i = 0; i < size; i += 1) {
    const colour = output.channels.length === 3
      ? [0, 1, 2].map((channel) => 255 * (values[channel * size + i] - least) * scale)
      : warmth((values[i] - least) * scale);
    pixels.data.set([...colour, 255], 4 * i);
  }
  pen.putImageData(pixels, 0, 0);
  const unit = output.unit ? ` ${output.unit}` : "";
  legend.textContent = `${output.channels.join(", ")}: ${digits(least)} to ${digits(most)}${unit}`;
}

function span(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return [least, most];
}

function warmth(share) {
  const at = share * (COLD_TO_WARM.length - 1);
  const low = Math.min(COLD_TO_WARM.length - 2, Math.floor(at));
  return COLD_TO_WARM[low].map((part, i) => part + (at - low) * (COLD_TO_WARM[low + 1][i] - part));
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
