(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const sections = [...document.querySelectorAll("#images > section")];
  const scenes = sections.map((section) => ({
    ...JSON.parse(section.querySelector("script").textContent),
    picture: section.querySelector("img").src,
    alt: section.querySelector("img").alt,
  }));
  // One entry a detection that was to be explained.
  const entries = [];
  scenes.forEach((scene, s) => {
    const crops = sections[s].querySelectorAll("td img");
    scene.detections.filter((d) => "borrowed" in d).forEach((detection, i) => {
      const entry = { scene, detection, crop: crops[i].src };
      detection.entry = entry;
      entries.push(entry);
    });
  });
  const percent = (share) => {
    if (share > 0 && share < 0.01) return "<\u00a01\u00a0%";
    return share > 0.99 && share < 1 - 1e-6 ? ">\u00a099\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
  };
  const weight = (share) =>
    share >= 0.01 ? `${(100 * share).toFixed(1)}\u00a0%` : `${(100 * share).toPrecision(2)}\u00a0%`;
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const title = (n) => {
    const level = LEVELS[n - 1];
    return `level ${level.number}, ${level.name}, stride ${level.stride}`;
  };

  let shown = entries; // What the filter leaves, sorted.
  let chosen = null;
  let heated = true;
  let level = null; // The source level whose heat is shown; null: the strongest.

  // --- The parts of the page.
  const classes = element("select", { id: "classes" });
  const order = element("select", { id: "order" });
  const count = element("span", { id: "count", role: "status" });
  const list = element("ol", { id: "list" });
  const image = element("img");
  const canvas = element("canvas", { ariaHidden: "true" });
  const boxes = document.createElementNS(SVG, "svg");
  const stage = element("figure", { id: "stage" }, image, canvas, boxes);
  const levels = element("div", { id: "levels" });
  const scale = element("p", { id: "scale" });
  const detail = element("div", { id: "detail" });
  const name = element("h2");
  const keys = element("p", { className: "keys" });
  keys.append(
    element("kbd", {}, "↑"), " ", element("kbd", {}, "↓"), " next, ",
    element("kbd", {}, "←"), " ", element("kbd", {}, "→"), " level; ",
    "point at a box to see its heat"
  );

  function build() {
    classes.append(element("option", { value: "" }, "all classes"));
    const names = new Set(entries.map((e) => e.detection.class));
    for (const each of [...names].sort()) {
      classes.append(element("option", { value: each }, each));
    }
    const orders = [
      ["", "order of the images"], ["score", "score, high to low"],
      ["low", "score, low to high"], ["precision", "precision, high to low"],
      ["wrong", "precision, low to high"],
    ];
    const sources = new Set(
      entries.flatMap((e) => Object.keys(e.detection.borrowed?.shares ?? {}))
    );
    for (const n of [...sources].sort((a, b) => a - b)) {
      orders.push([n, `share of level ${n}, high to low`]);
    }
    for (const [value, text] of orders) order.append(element("option", { value }, text));
    const switched = element("input", { type: "checkbox", id: "heat", checked: true });
    switched.addEventListener("change", () => {
      heated = switched.checked;
      if (chosen) paint(chosen);
    });
    const controls = element(
      "div", { id: "controls" },
      element("label", {}, "class ", classes), element("label", {}, "order ", order),
      element("label", {}, switched, " heat"), count
    );
    const facts = element("div", { id: "facts" }, levels, scale, detail, keys);
    const right = element("div", { id: "right" }, name, stage, facts);
    const viewer = element("div", { id: "viewer" }, list, right);
    document.getElementById("images").before(controls, viewer);
    document.body.classList.add("js");
    for (const select of [classes, order]) select.addEventListener("change", refill);
    document.addEventListener("keydown", onKey);
    new ResizeObserver(() => chosen && paint(chosen)).observe(stage);
  }

  // --- The list.
  const keyOf = {
    "": () => 0,
    score: (d) => -d.score,
    low: (d) => d.score,
    precision: (d) => -(d.borrowed?.precision ?? -1),
    wrong: (d) => d.borrowed?.precision ?? 2,
  };

  function refill() {
    const key =
      keyOf[order.value] ?? ((d) => -(d.borrowed?.shares[order.value] ?? -1));
    shown = entries
      .filter((e) => !classes.value || e.detection.class === classes.value)
      .sort((a, b) => key(a.detection) - key(b.detection));
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
      ? `precision ${precision(borrowed)}, ${strongest(borrowed)}`
      : "its level does not borrow";
    text.append(
      element("small", {}, facts), element("small", { title: scene.file_name }, scene.file_name)
    );
    const crop = element("img", { src: entry.crop, alt: "", loading: "lazy" });
    entry.button = element("button", { type: "button" }, crop, text);
    entry.button.addEventListener("click", () => choose(entry));
    return element("li", {}, entry.button);
  }

  const precision = (borrowed) =>
    borrowed.precision === null ? "– (none larger)" : percent(borrowed.precision);

  const byShare = (borrowed) => Object.entries(borrowed.shares).sort((a, b) => b[1] - a[1]);

  function strongest(borrowed) {
    const [n, share] = byShare(borrowed)[0];
    return `level ${n}: ${percent(share)}`;
  }

  function choose(entry) {
    if (chosen?.button) chosen.button.removeAttribute("aria-current");
    chosen = entry ?? null;
    stage.hidden = !entry;
    if (!entry) {
      for (const part of [name, levels, scale, detail]) part.replaceChildren();
      name.textContent = "No detection to show.";
      return;
    }
    entry.button.setAttribute("aria-current", "true");
    entry.button.scrollIntoView({ block: "nearest" });
    if (image.src !== entry.scene.picture) image.src = entry.scene.picture;
    image.width = entry.scene.width;
    image.height = entry.scene.height;
    image.alt = entry.scene.alt;
    name.textContent = entry.scene.file_name;
    stage.style.setProperty("--format", entry.scene.width / entry.scene.height);
    draw(entry);
    paint(entry);
  }

  // --- The stage.
  const levelOf = (borrowed) =>
    level in borrowed.shares ? level : byShare(borrowed)[0][0];

  // Opacity and colour of a share relative to the strongest cell.
  function color(value) {
    const green = Math.round(225 - 210 * value);
    const red = Math.round(255 - 110 * Math.max(0, value - 0.5) * 2);
    return `rgba(${red}, ${green}, ${Math.round(90 - 60 * value)}, ${0.92 * value ** 0.6})`;
  }

  // Heat, levels and numbers of an entry, over the chosen one's image.
  function paint(entry) {
    const { detection, scene } = entry;
    const width = (canvas.width = Math.round(stage.clientWidth * devicePixelRatio));
    const height = (canvas.height = Math.round(stage.clientHeight * devicePixelRatio));
    const borrowed = detection.borrowed;
    stage.classList.toggle("heated", Boolean(borrowed) && heated);
    levels.replaceChildren();
    scale.replaceChildren();
    detail.replaceChildren(...numbers(entry));
    canvas.dataset.detection = `${scene.file_name}:${detection.index}`;
    if (!borrowed) return;
    const now = levelOf(borrowed);
    for (const [n, share] of Object.entries(borrowed.shares)) {
      const button = element(
        "button", { type: "button" }, `${title(n)}: ${percent(share)}`
      );
      button.setAttribute("aria-pressed", String(n === now));
      button.addEventListener("click", () => { level = n; paint(entry); });
      levels.append(button);
    }
    legend(borrowed);
    if (!heated) return;
    const heat = borrowed.heat[now];
    const values = Uint8Array.from(atob(heat.values), (c) => c.charCodeAt(0));
    const context = canvas.getContext("2d");
    const [rows, columns] = heat.shape;
    const [high, wide] = [heat.cell[0] * height, heat.cell[1] * width];
    context.strokeStyle = "rgba(0, 0, 0, 0.25)";
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        context.fillStyle = color(values[r * columns + c] / 255);
        context.fillRect(c * wide, r * high, wide, high);
        if (wide > 6) context.strokeRect(c * wide, r * high, wide, high);
      }
    }
  }

  function legend(borrowed) {
    const bar = element("canvas", { width: 140, height: 12, ariaHidden: "true" });
    const context = bar.getContext("2d");
    for (let x = 0; x < 140; x++) {
      context.fillStyle = color(x / 139);
      context.fillRect(x, 0, 1, 12);
    }
    scale.append(
      "0 %", bar, `${weight(borrowed.scale)} of the attention in a cell`
    );
  }

  function numbers({ detection }) {
    const borrowed = detection.borrowed;
    const [, , width, height] = detection.bbox.map(Math.round);
    const what =
      `${detection.class} ${detection.score.toFixed(3)}, ${width} × ${height} ` +
      `pixels, from an anchor of level ${detection.level}. `;
    if (!borrowed) return [element("p", {}, what + detection.note)];
    const many = borrowed.descriptors > 1 ? "s" : "";
    const looked =
      `${borrowed.descriptors} descriptor${many} of level ${borrowed.level}. ` +
      `Precision: ${precision(borrowed)}.`;
    const table = element("table");
    table.append(element("caption", {}, "Strongest sources"));
    borrowed.sources.forEach((source, i) => {
      const held = source.detections.map((k) => nameOf(chosen.scene.detections[k]));
      table.append(element(
        "tr", {}, element("td", {}, String(i + 1)),
        element("td", {}, weight(source.weight)),
        element("td", {}, `level ${source.level}`),
        element("td", {}, held.length ? `in ${held.join(", ")}` : "in no detection")
      ));
    });
    return [element("p", {}, what + looked), table];
  }

  const nameOf = (d) => `${d.class} ${d.score.toFixed(2)}`;

  function shape(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  }

  // Boxes of all detections, and lines from the entry's to its sources.
  function draw({ scene, detection }) {
    boxes.setAttribute("viewBox", `0 0 ${scene.width} ${scene.height}`);
    boxes.setAttribute("preserveAspectRatio", "none");
    boxes.setAttribute("role", "img");
    boxes.setAttribute("aria-label", `boxes of ${scene.detections.length} detections`);
    boxes.replaceChildren();
    const thin = { "vector-effect": "non-scaling-stroke", fill: "none" };
    const [x, y, w, h] = detection.bbox;
    for (const source of detection.borrowed?.sources ?? []) {
      const line = {
        x1: x + w / 2, y1: y + h / 2, x2: source.center[0], y2: source.center[1], ...thin,
      };
      const wide = 1 + 3 * (source.weight / detection.borrowed.sources[0].weight);
      boxes.append(
        shape("line", { ...line, stroke: "#fff", "stroke-width": wide + 2 }),
        shape("line", { ...line, stroke: "#d7191c", "stroke-width": wide })
      );
    }
    // The largest first, so that small ones lie on top and can be pointed at.
    const byArea = [...scene.detections].sort(
      (a, b) => b.bbox[2] * b.bbox[3] - a.bbox[2] * a.bbox[3]
    );
    for (const each of byArea) boxes.append(box(each, each === detection, thin));
  }

  function box(each, own, thin) {
    const [x, y, width, height] = each.bbox;
    const place = { x, y, width, height, ...thin };
    const group = shape("g", { class: "box" });
    group.append(
      shape("title", {}, nameOf(each)),
      shape("rect", { ...place, stroke: "#fff", "stroke-width": own ? 6 : 3.5 }),
      shape("rect", {
        ...place, stroke: each.color, "stroke-width": own ? 3.5 : 1.5,
        "pointer-events": "all",
      })
    );
    if (each.entry) {
      group.setAttribute("cursor", "pointer");
      group.addEventListener("mouseenter", () => paint(each.entry));
      group.addEventListener("mouseleave", () => paint(chosen));
      group.addEventListener("click", () => choose(each.entry));
    }
    return group;
  }

  // --- Keys.
  function onKey(event) {
    const busy = event.target.closest("select, input");
    if (busy || event.altKey || event.ctrlKey || event.metaKey || !chosen) return;
    const move = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (move) {
      const to = shown.indexOf(chosen) + move;
      choose(shown[Math.min(Math.max(to, 0), shown.length - 1)]);
      if (list.contains(document.activeElement)) chosen.button.focus();
    } else if (turn && chosen.detection.borrowed) {
      const all = Object.keys(chosen.detection.borrowed.shares);
      const at = all.indexOf(levelOf(chosen.detection.borrowed));
      level = all[(at + turn + all.length) % all.length];
      paint(chosen);
    } else return;
    event.preventDefault();
  }

  build();
  refill();
})();
