// Images of the reader's: dropped, chosen, pasted or drawn here; and how a model sees them.

import { make } from "./dom.js";

const SIZE = 320;

/**
 * Return a zone for an image. Its `value` is a data URL, null while there is none; `given` is called
 * when one is there.
 */
export function dropZone(name, input, given) {
  const zone = { value: null, url: null, ratio: input.width / input.height, element: null };
  const file = make("input", {
    type: "file", id: `input-${name}`, accept: "image/png,image/jpeg,image/webp",
    change: (event) => take(event.target.files[0]),
  });
  const preview = make("img", { class: "preview", alt: "", hidden: true });
  const example = make("button", {
    type: "button", class: "quiet",
    click: () => drawn().toBlob((blob) => take(blob, "a drawn landscape"), "image/png"),
  }, "Draw one");
  const told = make("p", { class: "faint", role: "status" },
    `${input.formats.join(", ")}; seen as ${input.width} × ${input.height}, cut at the centre.`);

  async function take(blob, what = blob?.name) {
    if (!blob) return;
    if (zone.url) URL.revokeObjectURL(zone.url);
    zone.url = URL.createObjectURL(blob);
    preview.src = zone.url;
    preview.alt = `The image ${name}`;
    preview.hidden = false;
    preview.style.aspectRatio = `${zone.ratio}`;
    zone.value = await dataUrl(blob);
    told.textContent = `${what ?? "an image"}, seen as ${input.width} × ${input.height}.`;
    given();
  }

  zone.element = make(
    "div", {
      class: "drop",
      dragover: (event) => { event.preventDefault(); zone.element.classList.add("over"); },
      dragleave: () => zone.element.classList.remove("over"),
      drop: (event) => {
        event.preventDefault();
        zone.element.classList.remove("over");
        take(event.dataTransfer.files[0]);
      },
      paste: (event) => take(event.clipboardData.files[0]),
    },
    preview,
    make("div", {}, make("label", { for: file.id }, `Drop or choose an image (${name})`),
      make("div", { class: "row" }, file, example), told),
  );
  return zone;
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Return a canvas with a landscape, for who has no image at hand. */
function drawn() {
  const canvas = make("canvas", { width: SIZE, height: SIZE });
  const pen = canvas.getContext("2d");
  const fill = (colours, from, to, shape) => {
    const shade = pen.createLinearGradient(0, from, 0, to);
    colours.forEach((colour, i) => shade.addColorStop(i / (colours.length - 1), colour));
    pen.fillStyle = shade;
    pen.beginPath();
    shape();
    pen.fill();
  };
  fill(["#4d86c9", "#f6d7a8"], 0, 200, () => pen.rect(0, 0, SIZE, SIZE));
  fill(["#fff6d8", "#ffd27a"], 110, 170, () => pen.arc(230, 140, 30, 0, 7));
  fill(["#8c93a8", "#5f6680"], 90, 220, () => poly([0, 210, 70, 95, 130, 165, 185, 110, 320, 215]));
  fill(["#3f7d4d", "#234d2d"], 180, 320, () => poly([0, 215, 120, 190, 320, 225, 320, 320, 0, 320]));
  fill(["#7ab6d9", "#2b6a97"], 230, 320, () => poly([110, 320, 190, 235, 230, 235, 320, 300, 320, 320]));
  for (const [x, y, tall] of [[40, 250, 60], [80, 275, 75], [290, 250, 50]]) {
    fill(["#2f5f38", "#16351d"], y - tall, y, () => poly([x - tall / 4, y, x, y - tall, x + tall / 4, y]));
  }
  return canvas;

  function poly(points) {
    pen.moveTo(points[0], points[1]);
    for (let i = 2; i < points.length; i += 2) pen.lineTo(points[i], points[i + 1]);
    pen.closePath();
  }
}
