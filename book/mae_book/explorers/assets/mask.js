const { side, patch, channels } = data.size, patches = side * side, pixels = side * patch;
const heights = Math.log2(side), [rho, nu] = data.tree, weights = {}, pictures = {};
const within = (k, h) => (k >> h) % (side >> h) + ((k / side | 0) >> h) * (side >> h);
const percent = (value, digits) => (100 * value).toFixed(digits) + " %";
const floats = text => new Float32Array(bytes(text).buffer);

// The patches block by block: the leaves of the quad-tree from left to right.
const leaves = count(patches, p => [p, count(heights, k =>
  ((p / side >> k & 1) * 2 + (p >> k & 1)) << 2 * k).reduce((a, b) => a + b)])
  .sort((a, b) => a[1] - b[1]).map(pair => pair[0]);

// A mask is text in links, hexadecimal, its last bit patch 0.
const bits = word => count(patches, k => parseInt(word[word.length - 1 - (k >> 2)], 16) >> (k & 3) & 1);
const spelt = hidden => count(patches / 4, k => hidden.slice(patches - 4 * k - 4, patches - 4 * k)
  .reduce((sum, bit, j) => sum + (bit << j), 0).toString(16)).join("");

const model = () => data.models[choice("length")[2] + ":" + choice("ratio")[2]];
function loaded() {
  const name = choice("length")[2] + ":" + choice("ratio")[2];
  return weights[name] = weights[name]
    || { w: parameters(data.names, halves(model().tables)), readout: floats(model().readout) };
}

// An image's bytes and, a row a patch, what the model takes: (x − 0.5) / 0.25, channel by channel.
function picture() {
  if (pictures[state.image]) return pictures[state.image];
  const raw = bytes(data.images[state.image].index);
  const rows = count(patches, p => Float32Array.from({ length: channels * patch * patch }, (_, k) => {
    const channel = k / patch / patch | 0, y = (p / side | 0) * patch + (k / patch | 0) % patch;
    const x = p % side * patch + k % patch;
    return (raw[(y * pixels + x) * channels + channel] / 255 - 0.5) / 0.25;
  }));
  return pictures[state.image] = { raw, rows };
}

// Bytes as the address of a bitmap: every browser draws it, and no canvas is needed.
function bitmap(rgb) {
  const head = new DataView(new ArrayBuffer(54)), body = new Uint8Array(pixels * pixels * 3);
  head.setUint16(0, 0x424d);
  [[2, 54 + body.length], [10, 54], [14, 40], [18, pixels], [22, -pixels], [34, body.length]]
    .forEach(([at, value]) => head.setInt32(at, value, true));
  head.setUint16(26, 1, true);
  head.setUint16(28, 24, true);
  for (let k = 0; k < body.length; k++) body[k] = rgb[k - k % 3 + 2 - k % 3];
  const text = [...new Uint8Array(head.buffer), ...body].map(b => String.fromCharCode(b)).join("");
  return "data:image/bmp;base64," + btoa(text);
}

// What the model makes of the present image and mask.
function run(hidden) {
  const { w, readout } = loaded(), { raw, rows } = picture(), rebuilt = Uint8Array.from(raw);
  const gone = count(patches, k => k).filter(k => hidden[k]);
  const seen = count(patches, k => k).filter(k => !hidden[k]);
  const { tokens, maps } = encode(w, data.size, rows, seen);
  const n = seen.length + 1, width = data.size.width, mean = new Float32Array(width);
  for (let i = 1; i < n; i++)
    for (let k = 0; k < width; k++) mean[k] += tokens[i * width + k] / seen.length;
  const outs = readout.length / (width + 1), values = Array.from(readout.subarray(0, outs), (b, o) =>
    mean.reduce((sum, x, k) => sum + x * readout[(k + 1) * outs + o], b));
  let error = 0;
  const predicted = gone.length ? decode(w, data.size, tokens, seen, gone) : [];
  gone.forEach((p, i) => {
    for (let k = 0; k < rows[p].length; k++) {
      const value = Math.min(1, Math.max(0, predicted[i * rows[p].length + k] * 0.25 + 0.5));
      const y = (p / side | 0) * patch + (k / patch | 0) % patch, x = p % side * patch + k % patch;
      rebuilt[(y * pixels + x) * channels + (k / patch / patch | 0)] = Math.round(255 * value);
      error += (value - rows[p][k] * 0.25 - 0.5) ** 2 / rows[p].length / gone.length;
    }
  });
  const from = seen.indexOf(state.look) + 1; // of a hidden patch: that of [CLS]
  const attention = seen.map((_, j) =>
    maps.reduce((sum, map) => sum + map[from * n + j + 1] / maps.length, 0));
  return { rebuilt, values, error, attention, seen, from };
}

// Algorithm 1 on the quad-tree: a latent is shared above if it has hidden and visible patches below
// it, and in c if none of its children is. Kinds of the nodes, heights from the leaves up, and the
// place among them of each block.
function shared(hidden) {
  const counts = count(heights + 1, () => new Map());
  const name = (k, h) => (k / side >> h) + ":" + (k % side >> h);
  leaves.forEach(k => counts.forEach((of, h) => {
    const [gone, all] = of.get(name(k, h)) || [0, 0];
    of.set(name(k, h), [gone + hidden[k], all + 1]);
  }));
  const both = ([gone, all]) => gone > 0 && gone < all;
  const kinds = counts.map((of, h) => [...of.values()].map(([gone, all], k) => {
    if (!h) return gone ? "masked" : "visible";
    if (!both([gone, all])) return gone ? "s_m" : "s_mc";
    return h > 1 && [...counts[h - 1].values()].slice(4 * k, 4 * k + 4).some(both) ? "common" : "c";
  }));
  // c_i of a hidden patch: the lowest block above it of which something is visible.
  const asked = count(heights + 1, () => 0);
  leaves.forEach(k => {
    const h = counts.findIndex((of, h) => h && both(of.get(name(k, h))));
    if (hidden[k] && h > 0) asked[h]++;
  });
  return { kinds, asked };
}

// `explained_variance` of mae_lib.theory.worth: what the visible leaves below a leaf's ancestor of
// height `top` explain of it, over all leaves.
function explained(hidden, top) {
  const square = rho * rho, evidence = q => q / (1 - q), up = [];
  const total = (own, k) => own[4 * k] + own[4 * k + 1] + own[4 * k + 2] + own[4 * k + 3];
  let known = leaves.map(k => hidden[k] ? 0 : 1 - nu);
  for (let h = 0; h < top; h++) {
    const own = known.map(q => evidence(square * q));
    up.push(own);
    known = count(own.length / 4, k => total(own, k) / (1 + total(own, k)));
  }
  let beyond = known.map(() => 0), outside = beyond;
  for (const own of up.reverse()) {
    outside = own.map((q, k) => {
      const other = Math.max(0, beyond[k >> 2] + total(own, k >> 2) - q);
      return square * other / (1 + other);
    });
    beyond = outside.map(evidence);
  }
  return leaves.reduce((sum, k, i) => sum + (hidden[k] ? (1 - nu) * outside[i] / patches : 0), 0);
}

// c of the image's own hierarchy, class → parts → patches; the ground is a hierarchy of its own.
function partsShared(hidden) {
  const parts = data.images[state.image].parts, split = of => [0, 1].every(bit =>
    parts.some((part, k) => of(part) && hidden[k] === bit));
  const found = count(Math.max(...parts), k => k + 1).filter(p => split(part => part === p))
    .map(p => "part" + p);
  if (!found.length && split(part => part > 0)) found.push("class");
  return found.concat(split(part => part === 0) ? "ground" : []).join(", ") || "∅";
}

// What is said of a latent's value; as the library says it.
const signed = value => (value < 0 ? "−" : "+") + Math.abs(value);
const told = {
  position: v => v.map(x => signed((x * pixels / 2).toFixed(1))).join(", ").replace(/\+-/g, "−") + " px",
  scale: v => v[0].toFixed(2),
  turn: v => signed((v[0] * data.units.turn).toFixed(0)).replace("+-", "−") + "°",
};
const off = {
  position: (error, chance) => "± " + error.toFixed(1) + " px (" + chance.toFixed(1) + ")",
  scale: (error, chance) => "± " + error.toFixed(3) + " (" + chance.toFixed(3) + ")",
  turn: (error, chance) => "± " + error.toFixed(1) + "° (" + chance.toFixed(1) + ")",
};

function readouts(values, share) {
  const { errors, spread } = model(), texts = {}, away = k => Math.abs(data.shares[k] - share);
  const place = data.shares.reduce((best, _, k) => away(k) < away(best) ? k : best, 0);
  let start = 0;
  for (const name in data.read) {
    const said = values.slice(start, start += data.read[name]), error = errors[name][place];
    if (said.length > 2) {
      const most = Math.max(...said), sum = said.reduce((s, v) => s + Math.exp(v - most), 0);
      texts["read-" + name] = data.classes[said.indexOf(most)] + ", " + percent(1 / sum, 0);
      texts["off-" + name] = "right " + percent(error, 0) + " (" + percent(spread[name], 0) + ")";
    } else {
      texts["read-" + name] = told[name](said);
      texts["off-" + name] = off[name](error, spread[name]);
    }
    texts["true-" + name] = data.images[state.image].truth[name];
  }
  return texts;
}

// ---------------------------------------------------------------------------------------------------
// Drawing: by mouse or finger, by keys, or by a law.

const offer = word => [[word, "", word]];
const unit = () => [1, 2, 4][at("law").selectedIndex];
const blocks = () => unit() ? patches / unit() ** 2 : patches;
const sweep = (most, share) => {
  const hidden = Math.min(most - 1, Math.max(1, Math.round(share * most)));
  slide("share", most - 1, hidden, percent(hidden / most, 0));
};

// A share of blocks that lie anywhere, or a rectangle of about the share, no side more than twice
// the other where the grid allows it.
function random() {
  const u = unit(), any = n => Math.floor(Math.random() * n), hidden = count(patches, () => 0);
  if (u) {
    const order = count(blocks(), k => k).map(k => [Math.random(), k]).sort((a, b) => a[0] - b[0]);
    const chosen = new Set(order.slice(0, at("share").value).map(pair => pair[1]));
    const across = side / u;
    return hidden.map((_, k) =>
      +chosen.has((k / side / u | 0) * across + (k % side / u | 0)));
  }
  const fits = count(patches, k => [(k / side | 0) + 1, k % side + 1]).filter(([h, w]) =>
    Math.abs(h * w - at("share").value) <= side / 2 && h * w < patches);
  const square = fits.filter(s => Math.max(...s) <= 2 * Math.min(...s)), from = square.length ? square : fits;
  const [h, w] = from[any(from.length)], top = any(side - h + 1), left = any(side - w + 1);
  return hidden.map((_, k) => +((k / side | 0) >= top && (k / side | 0) < top + h
    && k % side >= left && k % side < left + w));
}

function hide(hidden) {
  if (hidden.every(Boolean)) return show("One patch at least stays visible: there is no code of nothing.");
  change({ mask: spelt(hidden) });
}

function paint(k, value) {
  const hidden = bits(state.mask);
  if (hidden[k] === value) return;
  hidden[k] = value;
  hide(hidden);
}

const under = event => {
  const frame = event.currentTarget.getBoundingClientRect();
  const along = (at, from, length) => Math.floor((at - from) / length * side);
  const row = along(event.clientY, frame.top, frame.height);
  const column = along(event.clientX, frame.left, frame.width);
  return row >= 0 && column >= 0 && row < side && column < side ? row * side + column : -1;
};
let brush = -1, cursor = 0;
const pads = { pad: "Mask: arrow keys move, Space hides or shows a patch", heat:
  "Attention: arrow keys move, Space looks from the patch, Home from [CLS]" };
const press = { pad: k => paint(k, 1 - bits(state.mask)[k]),
  heat: k => bits(state.mask)[k] || change({ look: state.look === k ? -1 : k }) };
for (const role in pads) {
  const svg = at(role), box = svg.insertBefore(
    document.createElementNS("http://www.w3.org/2000/svg", "rect"), null);
  set(svg, { tabindex: 0, role: "application", "aria-label": pads[role] });
  set(box, { class: "cursor", width: patch, height: patch });
  const put = k => set(box, { x: k % side * patch, y: (k / side | 0) * patch });
  put(0);
  svg.addEventListener("keydown", event => {
    const step = arrow(event), inside = k => Math.min(side - 1, Math.max(0, k));
    if (step) put(cursor = inside((cursor / side | 0) + step[0]) * side
      + inside(cursor % side + step[1]));
    if (event.key === " " || event.key === "Enter") { event.preventDefault(); press[role](cursor); }
    if (event.key === "Home" && role === "heat") change({ look: -1 });
    if (step || event.key === " ") svg.setAttribute("aria-label", "row " + ((cursor / side | 0) + 1)
      + ", column " + (cursor % side + 1) + (bits(state.mask)[cursor] ? ", hidden" : ", visible"));
  });
  svg.addEventListener("focus", () => put(cursor));
}
at("heat").addEventListener("click", event => press.heat(under(event)));
at("pad").addEventListener("pointerdown", event => {
  const k = under(event);
  if (event.button || k < 0) return;
  event.currentTarget.setPointerCapture(event.pointerId);
  paint(k, brush = 1 - bits(state.mask)[k]);
});
at("pad").addEventListener("pointermove", event => {
  if (brush >= 0 && under(event) >= 0) paint(under(event), brush);
});
for (const end of ["pointerup", "pointercancel"])
  at("pad").addEventListener(end, () => { brush = -1; });
at("law").addEventListener("input", () => {
  sweep(blocks(), bits(state.mask).reduce((a, b) => a + b) / patches || 0.75);
  hide(random());
});
at("share").addEventListener("input", () => {
  sweep(blocks(), at("share").value / blocks());
  hide(random());
});
at("draw").addEventListener("click", () => hide(random()));
at("clear").addEventListener("click", () => hide(count(patches, () => 0)));
at("swap").addEventListener("click", () => {
  const swapped = bits(state.mask).map(bit => 1 - bit);
  hide(swapped);
  if (!swapped.every(Boolean)) show("Swapped: c is what it was. What the loss asks is not.");
});
sweep(patches, bits(state.mask).reduce((a, b) => a + b) / patches);

start({
  choices: {
    mask: word => offer(word === undefined ? state.mask
      : word.length === patches / 4 && /^[0-9a-f]+$/.test(word) && !bits(word).every(Boolean)
        ? word : null),
    look: () => [[-1, "", "cls"], ...count(patches, k => [k, "", String(k)])],
  },
  show() {
    const began = performance.now(), hidden = bits(state.mask), seen = run(hidden);
    const { kinds, asked } = shared(hidden), n = hidden.reduce((a, b) => a + b), texts = {};
    const image = data.images[state.image], most = Math.max(...seen.attention);
    const address = bitmap(picture().raw);
    for (const role of ["pad", "heat"]) set(at(role).querySelector("image"), { href: address });
    set(at("rebuilt").querySelector("image"), { href: bitmap(seen.rebuilt) });
    const level = new Map(seen.seen.map((k, j) => [k, Math.round(255 * seen.attention[j] / most)]));
    [...at("pad").querySelectorAll("g rect")].forEach((rect, k) =>
      set(rect, { class: hidden[k] ? "gone" : "seen" }));
    [...at("heat").querySelectorAll("g rect:not(.mark)")].forEach((rect, k) => {
      set(rect, { class: hidden[k] ? "gone" : "seen" });
      if (hidden[k]) rect.removeAttribute("fill");
      else set(rect, { fill: data.colours[level.get(k)] });
    });
    const mark = at("heat").querySelector(".mark"), look = seen.from ? state.look : -1;
    set(mark, { x: Math.max(0, look) % side * patch, y: (Math.max(0, look) / side | 0) * patch });
    mark.toggleAttribute("hidden", look < 0);
    const point = x => ((x + 1) * pixels / 2).toFixed(1), place = seen.values.slice(20, 22);
    const [cx, cy] = image.place.map(point);
    set(at("rebuilt").querySelector("circle"), { cx, cy });
    set(at("rebuilt").querySelector("path"),
      { d: "M" + place.map(point).join(" ") + "m-3.4 0h6.8m-3.4 -3.4v6.8" });
    for (const node of all(".node[data-node]")) {
      const [h, k] = node.dataset.node.split(":").map(Number);
      node.dataset.kind = kinds[h][k];
      if (h) node.firstElementChild.setAttribute("d", data.outlines[kinds[h][k]]);
    }
    const said = count(heights, k => kinds[k + 1].filter(kind => kind === "c").length);
    for (let h = 1, before = 0; h <= heights; h++) {
      const worth = explained(hidden, h);
      texts["shared-" + h] = said[h - 1] + " of " + kinds[h].length;
      texts["asked-" + h] = asked[h] + " of " + patches;
      texts["worth-" + h] = percent(Math.abs(worth - before), 2);
      at("asked-" + h).parentElement.style.setProperty("--share", asked[h] / patches);
      at("worth-" + h).parentElement.style.setProperty("--share", worth - before);
      before = worth;
    }
    root.dataset.took = performance.now() - began;
    return { ...texts, ...readouts(seen.values, n / patches),
      token: look < 0 ? "[CLS]" : "the marked patch",
      hidden: n + " of " + patches + " patches",
      c: said.some(Boolean) ? said.map((k, h) => k + " of height " + (h + 1)).join(", ") : "∅",
      own: partsShared(hidden), error: n ? seen.error.toFixed(4) : "–",
      command: data.command.replace(/<(\w+)>/g, (_, role) =>
        role === "mask" ? state.mask : role === "length" ? state.length : choice(role)[2]) };
  },
});
