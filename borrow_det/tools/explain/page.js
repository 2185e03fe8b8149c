(() => {
  "use strict";
  const sections = [...document.querySelectorAll("#images > section")];
  const scenes = sections.map((section) => ({
    ...JSON.parse(section.querySelector("script").textContent),
    picture: section.querySelector("img").src,
    alt: section.querySelector("img").alt,
  }));
  // One entry per detection that is explained or has a note.
  const entries = [];
  const lenders = new References();
  scenes.forEach((scene, s) => {
    for (const reference of scene.references ?? []) lenders.prepare(reference);
    const crops = sections[s].querySelectorAll("td img");
    scene.detections.filter((d) => "borrowed" in d).forEach((detection, i) => {
      const entry = { scene, detection, crop: crops[i].src };
      detection.entry = entry;
      entries.push(entry);
    });
  });
  const title = (n) => {
    const level = LEVELS[n - 1];
    return `level ${level.number}, ${level.name}, stride ${level.stride}`;
  };

  let shown = entries; // Filtered and sorted.
  let chosen = null;
  let hovered = null; // The entry under the pointer, shown in place of the chosen one.
  let heated = true;
  let level = null; // Source level of the heat; null: the strongest.

  // --- The parts of the page.
  const classes = element("select", { id: "classes" });
  const order = element("select", { id: "order" });
  const count = element("span", { id: "count", role: "status" });
  const list = element("ol", { id: "list", ariaLabel: "detections" });
  const image = element("img");
  const canvas = element("canvas", { ariaHidden: "true" });
  const boxes = shape("svg");
  const stage = element(
    "figure", { id: "stage", ariaLabel: "image with its detections" },
    image, canvas, boxes
  );
  const levels = element(
    "div", { id: "levels", role: "group", ariaLabel: "source level of the heat" }
  );
  const scale = element("p", { id: "scale" });
  const detail = element("div", { id: "detail" });
  const name = element("h2", { ariaLive: "polite" });
  const right = element("div", { id: "right" });
  const keys = element("p", { className: "keys" });
  keys.append(
    "Click the list or the picture, then use ",
    element("kbd", {}, "↑"), " ", element("kbd", {}, "↓"), " for the next detection and ",
    element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " for another source level. ",
    "Point at a box to see what it borrowed. Boxes of lenders are dashed."
  );

  function build() {
    classes.append(element("option", { value: "" }, "all classes"));
    const names = new Set(entries.map((e) => e.detection.class));
    for (const each of [...names].sort()) {
      classes.append(element("option", { value: each }, each));
    }
    const orders = [
      ["", "image order"],
      ["score", "score, high to low"], ["low", "score, low to high"],
      ["precise", "attention precision, high to low"],
      ["imprecise", "attention precision, low to high"],
      ["lift", "attention lift, high to low"], ["unlifted", "attention lift, low to high"],
    ];
    const sources = new Set(
      entries.flatMap((e) => Object.keys(e.detection.borrowed?.shares ?? {}))
    );
    for (const n of [...sources].sort((a, b) => a - b)) {
      orders.push([n, `attention to level ${n}, high to low`]);
    }
    if (scenes.some((scene) => scene.references)) {
      orders.push(["references", "attention to references, high to low"]);
    }
    for (const [value, text] of orders) order.append(element("option", { value }, text));
    const switched = element("input", { type: "checkbox", id: "heat", checked: true });
    switched.addEventListener("change", () => {
      heated = switched.checked;
      paint();
    });
    const controls = element(
      "div", { id: "controls" },
      element("label", {}, "class ", classes), element("label", {}, "order ", order),
      element("label", {}, switched, " heat"), count
    );
    const facts = element("div", { id: "facts" }, levels, scale, detail, keys);
    right.append(name, stage, lenders.place, facts);
    // A click inside the viewer focuses it, so that it receives the keys.
    const viewer = element("div", { id: "viewer", tabIndex: -1 }, list, right);
    document.getElementById("images").before(controls, viewer);
    document.body.classList.add("js");
    for (const select of [classes, order]) select.addEventListener("change", refill);
    viewer.addEventListener("keydown", onKey);
    new ResizeObserver(paint).observe(stage);
  }

  // --- The list.
  const keyOf = {
    "": () => 0,
    score: (d) => -d.score,
    low: (d) => d.score,
    precise: (d) => -(d.borrowed?.attention_precision ?? -1),
    imprecise: (d) => d.borrowed?.attention_precision ?? 2,
    lift: (d) => -(lift(d.borrowed) ?? -1),
    unlifted: (d) => lift(d.borrowed) ?? Infinity,
    references: (d) => -(d.borrowed?.share_references ?? -1),
  };
  // Null without an attention precision.
  const lift = (borrowed) =>
    (borrowed?.attention_precision ?? null) === null
      ? null
      : borrowed.attention_precision / borrowed.positions;

  function refill() {
    const key =
      keyOf[order.value] ?? ((d) => -(d.borrowed?.shares[order.value] ?? -1));
    shown = entries
      .filter((e) => !classes.value || e.detection.class === classes.value)
      .map((e) => [key(e.detection), e])
      .sort(([a], [b]) => (a === b ? 0 : a - b))
      .map(([, e]) => e);
    list.replaceChildren(...shown.map(row));
    count.textContent =
      `${shown.length} of ${entries.length} detections in ${scenes.length} images`;
    choose(shown.includes(chosen) ? chosen : shown[0]);
  }

  function row(entry) {
    const { detection, scene } = entry;
    const borrowed = detection.borrowed;
    const text = element("span", {}, `${detection.class} ${detection.score.toFixed(2)}`);
    const facts = borrowed
      ? [`attention precision: ${borrowed.texts.attention_precision}`, strongest(borrowed)]
      : ["its level does not borrow"];
    for (const fact of [...facts, scene.file_name]) {
      text.append(element("small", { title: fact }, fact));
    }
    const crop = element("img", { src: entry.crop, alt: "", loading: "lazy" });
    // Tab reaches the chosen entry only; arrow keys move on from there.
    entry.button = element("button", { type: "button", tabIndex: -1 }, crop, text);
    entry.button.addEventListener("click", () => choose(entry));
    return element("li", {}, entry.button);
  }

  function strongest({ shares, texts }) {
    const n = strongestLevel(shares);
    const own = `level ${n}: ${texts.shares[n]}`;
    return texts.references ? `references: ${texts.share_references}, ${own}` : own;
  }

  function choose(entry) {
    if (chosen?.button) {
      chosen.button.removeAttribute("aria-current");
      chosen.button.tabIndex = -1;
    }
    chosen = entry ?? null;
    hovered = null;
    stage.hidden = !entry;
    if (!entry) {
      for (const part of [levels, scale, detail, lenders.place]) part.replaceChildren();
      name.textContent = "No detection to show.";
      return;
    }
    entry.button.setAttribute("aria-current", "true");
    entry.button.tabIndex = 0;
    reveal(entry);
    if (image.src !== entry.scene.picture) image.src = entry.scene.picture;
    image.width = entry.scene.width;
    image.height = entry.scene.height;
    image.alt = entry.scene.alt;
    stage.style.setProperty("--format", entry.scene.width / entry.scene.height);
    outline(entry.scene);
    paint();
  }

  // Scrolls the list only: scrollIntoView would move the picture out of the window.
  function reveal(entry) {
    const scroll = () => {
      const { offsetTop: top, offsetHeight: height } = entry.button.parentElement;
      const lowest = top + height - list.clientHeight;
      list.scrollTop = Math.min(Math.max(list.scrollTop, lowest), top);
    };
    scroll();
    // Rows out of sight have an estimated height: scroll again once they are visible.
    requestAnimationFrame(() => entry === chosen && scroll());
  }

  // --- The stage.
  const levelOf = ({ shares }) => (level in shares ? level : strongestLevel(shares));

  // Draws the chosen or hovered detection over its image, with its numbers.
  function paint() {
    const entry = hovered ?? chosen;
    if (!entry) return;
    const { detection, scene } = entry;
    const borrowed = detection.borrowed;
    right.classList.toggle("borrowing", Boolean(borrowed?.share_references));
    lenders.show(entry, level, heated);
    stage.classList.toggle("heated", Boolean(borrowed) && heated);
    const heading = `${nameOf(detection)} in ${scene.file_name}`;
    if (name.textContent !== heading) name.textContent = heading;
    scale.replaceChildren();
    detail.replaceChildren(...numbers(entry));
    canvas.dataset.detection = `${scene.file_name}:${detection.index}`;
    mark(entry);
    const now = borrowed && levelOf(borrowed);
    buttons(borrowed, now);
    if (borrowed) legend(borrowed);
    paintHeat(canvas, borrowed && heated ? borrowed.heat[now] : null);
  }

  function buttons(borrowed, now) {
    const focused = levels.contains(document.activeElement);
    levels.replaceChildren();
    for (const [n, share] of Object.entries(borrowed?.texts.shares ?? {})) {
      const button = element("button", { type: "button" }, `${title(n)}: ${share}`);
      button.setAttribute("aria-pressed", String(n === now));
      button.addEventListener("click", () => { level = n; paint(); });
      levels.append(button);
      if (focused && n === now) button.focus({ preventScroll: true });
    }
  }

  function legend(borrowed) {
    const bar = element("canvas", { width: 140, height: 12, ariaHidden: "true" });
    const context = bar.getContext("2d");
    for (let x = 0; x < 140; x++) {
      context.fillStyle = heatColor(x / 139);
      context.fillRect(x, 0, 1, 12);
    }
    scale.append("0 %", bar, `${borrowed.texts.scale} of the attention per position`);
  }

  function numbers({ detection }) {
    const borrowed = detection.borrowed;
    const [, , width, height] = detection.bbox.map(Math.round);
    const about =
      `${detection.class} ${detection.score.toFixed(3)}, ${width} × ${height} ` +
      `pixels, from an anchor of level ${detection.level}. `;
    if (!borrowed) return [element("p", {}, about + detection.note)];
    const many = borrowed.descriptors > 1 ? "s" : "";
    const attention =
      `${borrowed.descriptors} descriptor${many} of level ${borrowed.level}. ` +
      `Attention precision: ${borrowed.texts.attention_precision}.`;
    const table = element("table");
    const heads = ["", "attention", "level", "location"].map(
      (text) => element("th", { scope: "col" }, text)
    );
    table.append(
      element("caption", {}, `Strongest source positions: ${borrowed.texts.strongest}`),
      element("tr", {}, ...heads)
    );
    borrowed.sources.forEach((source, i) => {
      const cells = [i + 1, borrowed.texts.sources[i][0], source.level, borrowed.texts.sources[i][1]];
      table.append(element("tr", {}, ...cells.map((text) => element("td", {}, String(text)))));
    });
    return [element("p", {}, about + attention), table];
  }

  const lines = shape("g", { class: "lines" });

  // Draws the boxes of all detections of an image.
  function outline(scene) {
    outlineAll(boxes, scene, box);
    boxes.append(lines);
  }

  function box(each) {
    const group = outlineOf(each);
    if (each.entry) {
      group.setAttribute("cursor", "pointer");
      group.addEventListener("mouseenter", () => { hovered = each.entry; paint(); });
      group.addEventListener("mouseleave", () => { hovered = null; paint(); });
      group.addEventListener("click", () => choose(each.entry));
    }
    return group;
  }

  // Draws the entry's box bold and those of its lenders dashed, and lines to its source
  // positions in the image, numbered as in the table.
  function mark({ scene, detection }) {
    const { sources, larger } = detection.borrowed ?? { sources: [], larger: [] };
    for (const each of scene.detections) {
      emphasize(each, larger.includes(each.index), each === detection);
    }
    const pixel = scene.width / (stage.clientWidth || scene.width);
    const [x, y, w, h] = detection.bbox;
    const drawn = sources.flatMap((source, i) => {
      if (source.reference) return [];
      const [x2, y2] = source.center;
      const line = { x1: x + w / 2, y1: y + h / 2, x2, y2, ...THIN };
      const wide = 1 + 3 * (source.weight / sources[0].weight);
      return {
        line: [
          shape("line", { ...line, stroke: "#fff", "stroke-width": wide + 2 }),
          shape("line", { ...line, stroke: "#d7191c", "stroke-width": wide }),
        ],
        end: numberMark(source.center, i + 1, pixel),
      };
    });
    drawn.reverse(); // Strongest on top, and numbers on top of lines.
    lines.replaceChildren(...drawn.flatMap((d) => d.line), ...drawn.flatMap((d) => d.end));
  }

  // --- Keys.
  function onKey(event) {
    const other = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
    if (other || !chosen) return;
    const move = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move) {
      const to = shown.indexOf(chosen) + move;
      choose(shown[Math.min(Math.max(to, 0), shown.length - 1)]);
      if (list.contains(document.activeElement)) chosen.button.focus({ preventScroll: true });
    } else if (turn && chosen.detection.borrowed) {
      const all = Object.keys(chosen.detection.borrowed.shares);
      const at = all.indexOf(levelOf(chosen.detection.borrowed));
      level = all[(at + turn + all.length) % all.length];
      paint();
    } else return;
    event.preventDefault();
  }

  // Without explanations the plain list stays, which shows the images.
  if (entries.length) {
    build();
    refill();
  }
})();
