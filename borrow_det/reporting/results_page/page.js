(() => {
  "use strict";
  const { classes, sizes, kinds, thresholds, start, least } = RESULTS;
  const sections = [...document.querySelectorAll("section.picture")];
  const scenes = sections.map((section) => ({
    ...JSON.parse(section.querySelector("script").textContent),
    picture: section.querySelector("img").src,
  }));
  if (!scenes.length) return;
  const HIT = 0; // Index in kinds; the others are kinds of false positives.
  const SIGNS = { hit: "✓", wrong: "✗", lost: "?", ignored: "·" };

  // --- The parts of the viewer.
  const options = (pairs) =>
    pairs.map(([value, text]) => element("option", { value }, text));
  const threshold = element("input", {
    type: "range", id: "threshold", min: 0, max: thresholds.length - 1, value: start,
  });
  const value = element("output", { id: "value" });
  const kind = element("select", { id: "kind" }, ...options([
    ["", "all"], ["hit", "hits"], ["wrong", "false positives"],
    ...kinds.slice(1).map((name, i) => [i + 1, `false positives: ${name}`]),
    ["lost", "objects that are not found"], ["missed", "missed objects"],
  ]));
  const label = element("select", { id: "class" }, ...options([
    ["", "all"], ...classes.map((name, i) => [i, name]),
  ]));
  const size = element("select", { id: "size" }, ...options([
    ["", "all"], ...sizes.map((name, i) => [i, name]),
  ]));
  const annotated = element("input", { type: "checkbox", id: "annotated" });
  const counts = element("p", { id: "counts", role: "status" });
  const table = element("tbody", { id: "table" });
  const position = element("p", { id: "position", role: "status" });
  const image = element("img");
  const boxes = shape("svg", { role: "img", preserveAspectRatio: "none" });
  const stage = element("figure", { id: "stage", tabIndex: 0 }, image, boxes);
  const note = element("p", { id: "note" });
  const marks = element("tbody", { id: "marks" });
  let at = 0; // Index of the picture in scenes.
  let shown = []; // Indices of the scenes that the filters leave.

  function build() {
    const previous = element("button", { type: "button", id: "previous" }, "← previous");
    const next = element("button", { type: "button", id: "next" }, "next →");
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    const slider = element("label", { className: "slider" }, "threshold ", value, threshold);
    const named = [["show", kind], ["class", label], ["size", size]].map(
      ([name, select]) => element("label", {}, `${name} `, select)
    );
    const controls = element(
      "div", { id: "controls", role: "group", ariaLabel: "threshold and filters" },
      slider, ...named, element("label", {}, annotated, " annotated boxes")
    );
    const paging = element("div", { id: "paging" }, previous, next, position);
    const viewer = element(
      "div", { id: "viewer", role: "group", ariaLabel: "pictures" },
      controls, counts, note, paging,
      element(
        "div", { id: "scene" }, stage,
        scroller("Counts of all images by kind and size", ["kind", "all", ...sizes], table)
      ),
      legend(),
      scroller("Marks in this picture", ["", "mark", "class", "score", "box", "size"], marks)
    );
    table.parentElement.className = "numbers";
    sections[0].before(viewer);
    document.body.classList.add("js");
    threshold.addEventListener("input", update);
    for (const each of [kind, label, size, annotated]) each.addEventListener("change", update);
    viewer.addEventListener("keydown", onKey);
    new ResizeObserver(draw).observe(stage);
  }

  // A table with its own scroll bar, also for the keyboard.
  function scroller(caption, heads, body) {
    const row = element(
      "tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text))
    );
    const made = element(
      "table", {},
      element("caption", {}, caption), element("thead", {}, row), body
    );
    return element(
      "div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption }, made
    );
  }

  function legend() {
    const texts = {
      hit: "solid box, ✓: hit", wrong: "dashed, crossed box, ✗: false positive",
      lost: "dotted box, ?: object that is not found",
      ignored: "thin box: crowd or difficult object, which does not count",
    };
    const entries = Object.entries(texts).map(([type, text]) => {
      const sample = shape("svg", { class: "sample", viewBox: "0 0 40 20", "aria-hidden": "true" });
      sample.append(outline(type, [4, 3, 32, 14]));
      return element("li", {}, sample, ` ${text}`);
    });
    return element("ul", { className: "legend" }, ...entries);
  }

  // --- Counts, over all images of the split.
  const now = () => threshold.valueAsNumber; // Index in thresholds.
  // The best F1 may be between the steps.
  const text = (t) => thresholds[t].toFixed(t === start ? 3 : 2);
  const ofClass = (l) => label.value === "" || l === Number(label.value);
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  // Returns the numbers of detections of each kind and of objects, by size.
  function tally(t) {
    const total = (rows, kind) => sizes.map((_, s) => sum(
      rows.filter((row) => row[1] === s && row[2] === kind && ofClass(row[0]))
        .map(([, , , highest, numbers]) => sum(numbers.filter((_, i) => highest[i] >= t)))
    ));
    const found = kinds.map((_, k) => total(RESULTS.detections, k));
    const objects = sizes.map((_, s) => sum(
      RESULTS.objects.filter((_, l) => ofClass(l)).map((row) => row[s])
    ));
    const less = (numbers) => objects.map((n, s) => n - numbers[s]);
    return { found, objects, lost: less(found[HIT]), missed: less(total(RESULTS.reached, 0)) };
  }

  function count() {
    const t = now();
    const { found, objects, lost, missed } = tally(t);
    const of = (row) => (size.value === "" ? sum(row) : row[size.value]);
    const hits = of(found[HIT]);
    const wrong = sum(found.slice(1).map(of));
    const share = (part, all) => (all ? (part / all).toFixed(3) : "-");
    counts.textContent =
      `All images at ${text(t)}: ${hits} hits, ${wrong} false positives, ` +
      `${of(lost)} objects not found. Precision ${share(hits, hits + wrong)}, recall ` +
      `${share(hits, of(objects))}, F1 ${share(2 * hits, hits + wrong + of(objects))}.`;
    const rows = [
      ...kinds.map((name, k) => [name, found[k]]), ["not found", lost], ["of these, missed", missed],
    ];
    table.replaceChildren(...rows.map(([name, row]) => element(
      "tr", {}, element("th", { scope: "row" }, name),
      ...[sum(row), ...row].map((number) => element("td", {}, String(number)))
    )));
  }

  // --- The marks of a picture.
  function marksOf(scene) {
    const t = now();
    const found = scene.detections.filter((d) => d[3] >= t).map(
      ([l, s, k, , score, ...box]) =>
        ({ type: k === HIT ? "hit" : "wrong", kind: k, label: l, size: s, score, box })
    );
    const objects = scene.objects.map(([l, s, highest, covered, ...box]) => ({
      type: highest === null ? "ignored" : highest < t ? "lost" : "found",
      kind: covered < t ? "missed" : "", label: l, size: s, box,
    }));
    return [...objects.filter((o) => o.type !== "found"), ...found];
  }

  const unfiltered = () => [kind, label, size].every((select) => select.value === "");
  const matches = (mark) =>
    mark.type !== "ignored" &&
    ["", mark.type, String(mark.kind)].includes(kind.value) &&
    ["", String(mark.label)].includes(label.value) &&
    ["", String(mark.size)].includes(size.value);

  function outline(type, [x, y, width, height]) {
    const group = shape("g", { class: type });
    const place = { x, y, width, height };
    group.append(shape("rect", { ...place, class: "halo" }), shape("rect", place));
    if (type === "wrong") {
      const [right, floor] = [x + width, y + height];
      group.append(shape("path", { d: `M${x} ${y}L${right} ${floor}M${x} ${floor}L${right} ${y}` }));
    }
    return group;
  }

  const kindOf = (mark) =>
    mark.type === "wrong" ? `false positive: ${kinds[mark.kind]}`
      : mark.type === "lost" ? `not found${mark.kind && ": missed"}`
      : { hit: "hit", ignored: "does not count" }[mark.type];

  function draw() {
    const scene = scenes[at];
    const all = marksOf(scene);
    const chosen = all.filter(matches);
    const pixel = scene.width / (stage.clientWidth || scene.width);
    boxes.setAttribute("viewBox", `0 0 ${scene.width} ${scene.height}`);
    boxes.setAttribute("aria-label", `${chosen.length} marked boxes`);
    const drawn = all.map((mark) => {
      const group = outline(mark.type, mark.box);
      if (!matches(mark)) group.classList.add("other");
      group.append(shape("title", {}, `${kindOf(mark)}, ${classes[mark.label]}`));
      return group;
    });
    if (annotated.checked) {
      drawn.unshift(...scene.objects.map(([, , , , ...box]) => outline("annotated", box)));
    }
    const tags = chosen.map((mark, i) => {
      const [x, y] = mark.box;
      const text = `${SIGNS[mark.type]}${i + 1}`;
      return shape("text", { x, y: Math.max(y - 3 * pixel, 11 * pixel), "font-size": 12 * pixel }, text);
    });
    boxes.replaceChildren(...drawn, ...tags);
    marks.replaceChildren(...chosen.map((mark, i) => {
      const [, , width, height] = mark.box.map(Math.round);
      const cells = [
        `${SIGNS[mark.type]}${i + 1}`, kindOf(mark), classes[mark.label],
        mark.score === undefined ? "" : mark.score.toFixed(3),
        `${width} × ${height}`, sizes[mark.size],
      ];
      return element("tr", {}, ...cells.map((text) => element("td", {}, text)));
    }));
  }

  // --- Pages.
  function update() {
    value.textContent = text(now());
    threshold.setAttribute("aria-valuetext", text(now()));
    note.textContent = thresholds[now()] < least
      ? `Boxes with a score below ${least} are counted, but not drawn.`
      : "";
    count();
    shown = scenes.flatMap((scene, i) =>
      unfiltered() || marksOf(scene).some(matches) ? [i] : []
    );
    // The picture stays, or the next one that the filters leave comes.
    open(shown.find((i) => i >= at) ?? shown.at(-1));
  }

  function open(index) {
    const empty = index === undefined;
    stage.hidden = empty;
    if (empty) {
      position.textContent = "No picture of this page has such a mark.";
      marks.replaceChildren();
      return;
    }
    at = index;
    const scene = scenes[at];
    if (image.src !== scene.picture) image.src = scene.picture;
    image.alt = scene.name;
    image.width = scene.width;
    image.height = scene.height;
    stage.style.setProperty("--format", scene.width / scene.height);
    stage.setAttribute("aria-label", `${scene.name}; arrow keys turn the page`);
    // Names may have another direction than the text around them.
    const [name, reason] = [scene.name, scene.reason].map((words) => element("bdi", {}, words));
    const place = `Picture ${shown.indexOf(at) + 1} of ${shown.length}: `;
    position.replaceChildren(place, name, " (", reason, ")");
    draw();
  }

  function turn(by) {
    if (shown.length) open(shown[(shown.indexOf(at) + by + shown.length) % shown.length]);
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    // Sliders, lists and scrolling tables have their own arrow keys.
    if (!event.target.closest("#stage, #paging")) return;
    if (event.key === "ArrowRight") turn(1);
    else if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "Home") open(shown[0]);
    else if (event.key === "End") open(shown.at(-1));
    else return;
    event.preventDefault();
  }

  build();
  update();
})();
