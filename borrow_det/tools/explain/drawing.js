// Drawing over an image: heat, boxes, numbers.
const THIN = { "vector-effect": "non-scaling-stroke", fill: "none" };

const nameOf = (detection) => `${detection.class} ${detection.score.toFixed(2)}`;

const strongestLevel = (shares) =>
  Object.entries(shares).sort((a, b) => b[1] - a[1])[0][0];

// Opacity and color of attention relative to the end of the scale.
function heatColor(value) {
  const green = Math.round(225 - 210 * value);
  const red = Math.round(255 - 110 * Math.max(0, value - 0.5) * 2);
  return `rgba(${red}, ${green}, ${Math.round(90 - 60 * value)}, ${0.92 * value ** 0.6})`;
}

// Fits a canvas to its parent, and draws the heat of a level, or nothing.
function paintHeat(canvas, heat) {
  const { clientWidth, clientHeight } = canvas.parentElement;
  const width = (canvas.width = Math.round(clientWidth * devicePixelRatio));
  const height = (canvas.height = Math.round(clientHeight * devicePixelRatio));
  if (!heat) return;
  const values = Uint8Array.from(atob(heat.values), (c) => c.charCodeAt(0));
  const context = canvas.getContext("2d");
  const [rows, columns] = heat.shape;
  const [high, wide] = [heat.cell[0] * height, heat.cell[1] * width];
  context.strokeStyle = "rgba(0, 0, 0, 0.25)";
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      context.fillStyle = heatColor(values[r * columns + c] / 255);
      context.fillRect(c * wide, r * high, wide, high);
      if (wide > 6) context.strokeRect(c * wide, r * high, wide, high);
    }
  }
}

// Draws the boxes of all detections of an image or a reference into an SVG element.
function outlineAll(svg, scene, box) {
  svg.setAttribute("viewBox", `0 0 ${scene.width} ${scene.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `boxes of ${scene.detections.length} detections`);
  // Largest first, so that small boxes are on top and can be pointed at.
  const byArea = [...scene.detections].sort(
    (a, b) => b.bbox[2] * b.bbox[3] - a.bbox[2] * a.bbox[3]
  );
  svg.replaceChildren(...byArea.map(box));
}

function outlineOf(detection) {
  const [x, y, width, height] = detection.bbox;
  const place = { x, y, width, height, ...THIN };
  const under = shape("rect", { ...place, stroke: "#fff" });
  const over = shape("rect", { ...place, stroke: detection.color, "pointer-events": "all" });
  const group = shape("g", { class: "box" });
  group.append(shape("title", {}, nameOf(detection)), under, over);
  detection.outline = [under, over];
  return group;
}

// Draws the box of a detection dashed if it is a lender, and bold if it borrows.
function emphasize({ outline: [under, over] }, lends, borrows = false) {
  const width = borrows ? 3.5 : lends ? 2.5 : 1.5;
  under.setAttribute("stroke-width", width + 2);
  over.setAttribute("stroke-width", width);
  over.setAttribute("stroke-dasharray", lends ? "7 5" : "none");
}

// Returns the number of a source position in a circle; `pixel` is one of the window.
function numberMark([x, y], number, pixel) {
  const circle = { cx: x, cy: y, r: 9 * pixel, fill: "#a50f15", stroke: "#fff" };
  return [
    shape("circle", { ...circle, "stroke-width": pixel }),
    shape("text", { x, y, "font-size": 11 * pixel }, String(number)),
  ];
}

// Returns a dotted outline of the view that borrows from a reference.
function viewOutline({ view: [top, left, bottom, right], width, height }) {
  const place = { x: left * width, y: top * height };
  const size = { width: (right - left) * width, height: (bottom - top) * height };
  const look = { class: "view", stroke: "#000", "stroke-width": 2, "stroke-dasharray": "2 4" };
  return shape("rect", { ...place, ...size, ...look, ...THIN });
}
