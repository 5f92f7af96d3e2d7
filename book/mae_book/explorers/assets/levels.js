const graph = () => data.graphs.find(g => g.name === state.graph);
const bits = text => {
  const bytes = atob(text);
  return k => bytes.charCodeAt(k >> 3) >> (k & 7) & 1;
};

// What the example mask hides, and the latents in its c: words, and both as paths.
function draw(mask, g, setting) {
  let hidden = "", block = "", said = "no such mask";
  if (setting.examples) {
    const [masked, c] = setting.examples[state.example].map(bits), counts = {};
    let patches = 0, members = 0;
    for (let k = 0; k < g.patches; k++) if (masked(k)) {
      patches++;
      hidden += "M" + k % g.columns + " " + Math.floor(k / g.columns) + "h1v1h-1z";
    }
    g.levels.forEach((level, k) => {
      if (!c(k)) return;
      members++;
      counts[level] = (counts[level] || 0) + 1;
      block += g.outlines[k];
    });
    const listed = Object.keys(counts).map(level => counts[level] + " at level " + level);
    said = "hides " + patches + " of " + g.patches + " patches; c "
      + (members ? "has " + members + " members: " + listed.join(", ") : "is empty");
  }
  const paths = { hidden, halo: block, block };
  for (const name in paths) mask.querySelector("." + name).setAttribute("d", paths[name]);
  mask.setAttribute("aria-label", mask.getAttribute("aria-label").split(":")[0] + ": " + said);
  return said;
}

// A bar is as long as its number says; its interval lies over its end.
function spectrum(shown, setting) {
  shown.querySelector(".measure").textContent = data.measures[state.measure];
  for (const row of shown.querySelectorAll("[data-level]")) {
    const text = setting.examples ? setting[state.measure][row.dataset.level - 1] : "–";
    const [value = 0, low = 0, high = 0] = (text.match(/[\d.]+/g) || []).map(Number);
    const percent = share => 100 * share + "%";
    row.querySelector(".value").textContent = text;
    row.querySelector(".fill").style.width = percent(value);
    Object.assign(row.querySelector(".range").style,
      { left: percent(low), width: percent(high - low) });
  }
}

start({
  choices: { unit: () => graph().unit[state.law] },
  show() {
    const g = graph(), unit = now("unit"), ratio = String(state.ratio);
    const row = g.masks.findIndex(m => m.law === state.law && m.unit === unit);
    const masks = g.masks[row];
    const setting = masks.settings[data.choices.ratio.findIndex(o => o[0] === state.ratio)];
    const shown = pane(data.graphs.indexOf(g));
    const level = parseFloat(setting.level).toFixed(4);
    const asked = Object.assign({}, state, { unit, ratio });
    for (const line of shown.querySelectorAll("[data-row]")) {
      const on = +line.dataset.row === row, mark = line.querySelector(".mark");
      line.toggleAttribute("data-on", on);
      mark.setAttribute("d", on && level !== "NaN" ? "M" + ratio + " -" + level + "h0" : "");
    }
    spectrum(shown, setting);
    return { "this-mask": draw(shown.querySelector(".mask"), g, setting), hidden: setting.hidden,
      level: setting.level, members: setting.members, paper: masks.paper,
      command: g.command.replace(/<(\w+)>/g, (_, name) => asked[name]) };
  },
});
