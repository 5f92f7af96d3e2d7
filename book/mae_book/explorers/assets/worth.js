const ratios = data.choices.ratio.map(option => option[0]);
const draw = (selector, k, path) => set(all(selector)[k], { d: "M" + path });

start({
  show() {
    const word = role => choice(role)[2];
    const { curves, tops, height } = data.settings[["rho", "nu", "unit"].map(word)];
    const texts = { height, half: height / 2,
      command: data.command.replace(/<(\w+)>/g, (_, role) => word(role)) };
    set(root.querySelector(".plane"), { viewBox: "0 -" + height + " 1 " + height });
    draw(".here", 0, state.ratio + " 0v" + height);
    curves.forEach((curve, k) => {
      const points = curve.map((value, place) => ratios[place] + " " + value), best = tops[k];
      draw(".curve", k, points.join("L"));
      draw(".top", k, points[best] + "h0");
      texts[data.names[k]] = curve[ratios.indexOf(state.ratio)]
        + ", highest at ratio " + ratios[best];
    });
    return texts;
  },
});
