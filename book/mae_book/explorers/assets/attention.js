const [height, width] = data.size, line = width / 160, decoded = {};
const run = () => data.runs[state.run];
const percent = value => (100 * value).toFixed(1) + " %";
const place = k => "row " + (Math.floor(k / run().columns) + 1) + ", column "
  + (k % run().columns + 1);

// For each layer, head and token the greatest attention as a float, then for each the attention to
// all tokens in 255ths of it.
function table(r) {
  const name = state.run + ":" + state.image, tokens = r.rows * r.columns + 1;
  if (!decoded[name]) {
    const bytes = Uint8Array.from(atob(r.tables[state.image]), c => c.charCodeAt(0));
    const rows = r.layer.length * r.heads * tokens;
    decoded[name] = { greatest: new Float32Array(bytes.buffer, 0, rows),
      levels: bytes.subarray(4 * rows), tokens };
  }
  return decoded[name];
}

function attention(r) {
  const { greatest, levels, tokens } = table(r), found = new Float64Array(tokens);
  const layer = r.layer.findIndex(option => option[0] === now("layer")), head = now("head");
  for (const h of head < 0 ? count(r.heads, k => k) : [head]) {
    const row = (layer * r.heads + h) * tokens + state.patch + 1, each = head < 0 ? r.heads : 1;
    for (let k = 0; k < tokens; k++)
      found[k] += greatest[row] * levels[row * tokens + k] / 255 / each;
  }
  return found;
}

function box(r, k, inset) {
  const w = width / r.columns, h = height / r.rows;
  return { x: k % r.columns * w + inset, y: Math.floor(k / r.columns) * h + inset,
    width: w - 2 * inset, height: h - 2 * inset };
}

function draw(r, values, most) {
  const image = data.images[state.image], level = v => Math.round(255 * v / most) || 0;
  for (const picture of all("image")) set(picture, { href: image.url });
  at("picture").setAttribute("aria-label", choice("image")[1]);
  const patch = (k, fill) => set(document.createElementNS("http://www.w3.org/2000/svg", "rect"),
    Object.assign(box(r, k, 0), { class: "patch", fill }));
  at("map").querySelector("g").replaceChildren(
    ...Array.from(values, (value, k) => patch(k, data.colours[level(value)])));
  for (const path of all("svg > path")) path.setAttribute("d", image.outline);
  for (const rect of all("svg > rect")) {
    rect.toggleAttribute("hidden", state.patch < 0);
    set(rect, box(r, state.patch, 1.2 * line));
  }
}

// The share on the object, as the chapter's scores have it: without [CLS], and for a patch without
// the patch itself, on both sides.
function onObject(r, values) {
  const coverage = data.images[state.image].coverage[r.rows + "x" + r.columns];
  if (!coverage) return "–";
  let on = 0, sum = 0, area = 0, n = 0;
  values.forEach((value, k) => {
    if (k !== state.patch) { on += value * coverage[k]; sum += value; area += coverage[k]; n++; }
  });
  return percent(sum ? on / sum : 0) + " of what goes to " + (state.patch < 0 ? "" : "other ")
    + "patches; the object is " + percent(area / n) + " of their area";
}

let last = 0; // the patch before [CLS]
at("cls").addEventListener("click", () => {
  const back = Math.min(last, run().rows * run().columns - 1);
  last = state.patch;
  change({ patch: last < 0 ? Math.max(0, back) : -1 });
});
at("under").addEventListener("change", () => at("map").classList.toggle("under"));
for (const svg of [at("picture"), at("map")]) svg.addEventListener("click", event => {
  const r = run(), frame = svg.getBoundingClientRect();
  const along = (share, n) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
  change({ patch: along((event.clientY - frame.top) / frame.height, r.rows) * r.columns
    + along((event.clientX - frame.left) / frame.width, r.columns) });
});
set(at("pictures"), { tabindex: 0, role: "application", "aria-label": "Image and attention map" });
at("pictures").addEventListener("keydown", event => {
  const r = run(), step = arrow(event), inside = (k, n) => Math.min(n - 1, Math.max(0, k));
  if (event.key === "Home") event.preventDefault();
  if (event.key === "Home") return change({ patch: -1 });
  if (!step) return;
  const [row, column] = state.patch < 0 // from [CLS] into the middle
    ? [Math.floor(r.rows / 2), Math.floor(r.columns / 2)]
    : [inside(Math.floor(state.patch / r.columns) + step[0], r.rows),
      inside(state.patch % r.columns + step[1], r.columns)];
  change({ patch: row * r.columns + column });
});
put({ left: "This page has no room for: " + data.left.join("; ") + ". The live widget has them." });
at("left").hidden = !data.left.length;

start({
  choices: {
    run: () => data.choices.run.filter(option => data.runs[option[0]]),
    layer: () => run().layer,
    head: () => run().head,
    patch: () => [[-1, "", "cls"], ...count(run().rows * run().columns, k => [k, "", String(k)])],
  },
  adapt(changes) {
    if (!("run" in changes) || state.patch < 0) return;
    const old = run(), r = data.runs[changes.run]; // the patch under the middle of the old one
    const move = (k, from, to) => Math.floor((k + 0.5) * to / from);
    changes.patch = move(Math.floor(state.patch / old.columns), old.rows, r.rows) * r.columns
      + move(state.patch % old.columns, old.columns, r.columns);
  },
  show() {
    const r = run(), found = attention(r), values = found.subarray(1), cls = state.patch < 0;
    const most = Math.max(...values), top = values.indexOf(most);
    const asked = Object.assign({}, state, { layer: now("layer"), head: now("head") });
    const peak = "the patch in " + place(top) + ": " + percent(most);
    draw(r, values, most);
    at("cls").setAttribute("aria-pressed", cls);
    at("map").setAttribute("aria-label", "attention map: most on " + peak);
    return {
      token: cls ? "[CLS]" : "the marked patch", most: percent(most), "to-cls": percent(found[0]),
      from: cls ? "[CLS]"
        : "the patch in " + place(state.patch) + " of " + r.rows + " × " + r.columns,
      peak: peak + (cls ? "" : "; the patch itself: " + percent(values[state.patch])),
      object: onObject(r, values), command: r.command.replace(/<(\w+)>/g, (_, name) => asked[name]),
      note: r.every ? "" : "Of this model the page holds the last layer alone, mean over heads;"
        + " the live widget has every layer and head.",
    };
  },
});
