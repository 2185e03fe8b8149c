// The references of the chosen detection, beside its image.
class References {
  constructor() {
    this.place = element("div", { id: "references" });
  }

  // Adds to a reference of an image its picture, which the page contains once.
  prepare(reference) {
    reference.picture = document.getElementById(`reference-${reference.key}`).src;
  }

  // Shows the references with attention, the strongest first, with the heat of a level
  // (null: the strongest of each).
  show({ scene, detection }, level, heated) {
    const parts = detection.borrowed?.references ?? [];
    const shown = parts
      .map((part, i) => ({ part, i, reference: scene.references[i] }))
      .filter(({ part }) => part.share > 0)
      .sort((a, b) => b.part.share - a.part.share);
    this.place.replaceChildren(
      ...shown.map((each) => this.figure(each, detection.borrowed, level, heated))
    );
    for (const { paint } of shown) paint();
  }

  figure(each, borrowed, level, heated) {
    const { part, i, reference } = each;
    const now = level in part.shares ? level : strongestLevel(part.shares);
    const title = borrowed.texts.references[i];
    const { width, height, file_name } = reference;
    const image = element("img", { src: reference.picture, alt: file_name, width, height });
    const canvas = element("canvas", { ariaHidden: "true" });
    const boxes = shape("svg");
    const frame = element("div", { className: "framed" }, image, canvas, boxes);
    frame.style.setProperty("--format", width / height);
    frame.classList.toggle("heated", heated);
    outlineAll(boxes, reference, outlineOf);
    if (reference.view) boxes.append(viewOutline(reference));
    for (const other of reference.detections) {
      emphasize(other, part.larger.includes(other.index));
    }
    // Sizes are known once the figure is on the page.
    each.paint = () => {
      const pixel = width / (frame.clientWidth || width);
      borrowed.sources.forEach((source, n) => {
        if (source.reference === i + 1) {
          boxes.append(...numberMark(source.center, n + 1, pixel));
        }
      });
      paintHeat(canvas, heated ? part.heat[now] : null);
    };
    const caption = `${title}; level ${now}: ${part.texts[now]}`;
    return element(
      "figure", { title: file_name }, frame, element("figcaption", {}, caption)
    );
  }
}
