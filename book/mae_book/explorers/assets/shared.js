const tables = data.graphs.map(g => atob(g.index)), masks = data.graphs.map(g => g.mask);
const graph = () => data.graphs.findIndex(g => g.name === state.graph);
const noises = names => names.length ? "noises of " + names.join(", ") : "∅";
const bits = (g, mask) => data.graphs[g].observables.map((_, k) => mask >> k & 1);
let built = -1, buttons = [];

// Mask m hides observable k where its bit k is set; its answer is a letter for each latent, and a
// reading in words.
function answer(g, mask) {
  const { width } = data.graphs[g], byte = k => tables[g].charCodeAt(mask * width + k);
  return byte(0) + (width > 1 ? 256 * byte(1) : 0);
}

// Another graph: its observables as buttons, its drawing, its units.
function build() {
  const g = data.graphs[built = graph()], box = at("observables");
  buttons = g.observables.map((name, k) => {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: name, onclick: () => press(k) });
    return button;
  });
  box.replaceChildren(...buttons);
  box.style.display = g.columns ? "grid" : "";
  box.style.gridTemplateColumns = "repeat(" + g.columns + ", minmax(40px, 56px))";
  // Names of 12 points stay above 9 pixels: a narrower place scrolls.
  const drawing = pane(built).querySelector(".drawing svg");
  drawing.style.minWidth = drawing.getAttribute("width") * 0.8 + "px";
  for (const role of ["unit", "share", "draw"]) at(role).disabled = !g.units.length;
  const masked = g.observables.filter((_, k) => state.masked >> k & 1).length;
  if (g.units.length) offer(0, masked / g.observables.length); // where the mask is
}

// A unit, and the number of its blocks that is nearest to a share.
function offer(place, share) {
  const g = data.graphs[graph()], [unit, { length }] = g.units[place];
  const hidden = Math.round(share * length), one = g.columns ? "1 patch" : "1 observable";
  const size = g.columns ? unit + " × " + unit + " patches" : unit + " in a row";
  slide("unit", g.units.length - 1, place, unit === 1 ? one : size);
  slide("share", length, hidden,
    +(hidden / length).toFixed(3) + " (" + hidden + " of " + length + ")");
}

function draw() {
  const blocks = data.graphs[graph()].units[at("unit").value][1].slice();
  let masked = 0;
  offer(+at("unit").value, at("share").value / at("share").max);
  for (let k = 0; k < +at("share").value; k++)
    for (const observable of blocks.splice(Math.floor(Math.random() * blocks.length), 1)[0])
      masked |= 1 << observable;
  change({ masked });
}

const press = k => change({ masked: state.masked ^ 1 << k });
all(".drawing").forEach((drawing, g) => {
  for (const node of drawing.querySelectorAll(".node")) {
    const observable = node.dataset.node - data.graphs[g].latents.length;
    if (observable < 0) continue;
    node.dataset.button = "";
    node.addEventListener("click", () => press(observable));
  }
});
at("unit").addEventListener("input", draw);
at("share").addEventListener("input", draw);
at("draw").addEventListener("click", draw);
at("clear").addEventListener("click", () => change({ masked: 0 }));
at("swap").addEventListener("click", () => change(
  { masked: 2 ** buttons.length - 1 ^ state.masked },
  "Swapped: c is what it was, and the two noises have changed places."));
at("observables").addEventListener("keydown", event => {
  const step = arrow(event), columns = data.graphs[graph()].columns || buttons.length;
  if (!step) return;
  const next = buttons[buttons.indexOf(event.target) + step[0] * columns + step[1]];
  if (next) next.focus();
});

state.masked = masks[graph()];
start({
  choices: {
    masked(word) {
      const n = data.graphs[graph()].observables.length;
      if (word === undefined) return [[state.masked, "", bits(graph(), state.masked).join("")]];
      return /^[01]*$/.test(word) && word.length === n
        ? [[[...word].reduce((mask, bit, k) => mask | bit << k, 0), "", word]] : [];
    },
  },
  adapt(changes) {
    if ("graph" in changes)
      changes.masked = masks[data.graphs.findIndex(g => g.name === changes.graph)];
  },
  show() {
    if (built !== graph()) build();
    masks[built] = state.masked;
    const g = data.graphs[built], hidden = bits(built, state.masked);
    const number = answer(built, state.masked);
    const kinds = [...g.answers[number]].map(letter => data.kinds[letter])
      .concat(hidden.map(h => h ? "masked" : "visible"));
    const [said, c, levels, dims] = g.readings[g.reading[number]];
    const parts = (kind, h) => noises(g.latents.filter((_, k) => kinds[k] === kind)
      .concat(g.observables.filter((_, k) => hidden[k] === h)));
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", hidden[k] === 1));
    for (const node of all('[data-pane="' + built + '"] .drawing .node')) {
      node.dataset.kind = kinds[node.dataset.node];
      node.firstElementChild.setAttribute("d", data.outlines[node.dataset.kind]);
    }
    return { words: said, c, levels, dims, s_m: parts("s_m", 1), s_mc: parts("s_mc", 0),
      command: g.command[0] + g.command[1].filter((_, k) => hidden[k]).join(", ") + g.command[2] };
  },
});
