const table = root.querySelector("table"), bodies = [...table.tBodies], heads = all("th");
const boxes = all('input[type="checkbox"]');
const verdicts = () => boxes.filter(box => box.checked).map(box => box.value);

for (const head of heads) {
  const button = document.createElement("button"), sort = head.dataset.sort;
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () =>
    change({ sort, down: state.sort === sort && !state.down }));
  head.append(button);
}
for (const box of boxes) box.addEventListener("change", () => change({ verdicts: verdicts() }));
at("search").addEventListener("input", () => change({ text: at("search").value }));
at("reset").addEventListener("click", () => change(data.selected));

// A claim's own address opens its row.
function open() {
  const row = bodies.find(body => "#" + body.id === location.hash);
  if (!row) return;
  row.hidden = false;
  row.querySelector("details").open = true;
  row.scrollIntoView();
}

start({
  mark: "?",
  words() {
    const found = new URLSearchParams();
    if (state.verdicts.length < boxes.length) found.set("verdict", state.verdicts.join(","));
    if (state.part) found.set("part", state.part);
    if (state.text) found.set("text", state.text);
    if (state.sort !== "order") found.set("sort", (state.down ? "-" : "") + state.sort);
    return found;
  },
  read(text) {
    const asked = new URLSearchParams(text), sort = (asked.get("sort") || "order").replace("-", "");
    const part = asked.get("part") || "";
    const known = (role, word) => offers(role).some(option => option[2] === word);
    if (!known("sort", sort) || !known("part", part)) return false;
    const chosen = asked.has("verdict") ? asked.get("verdict").split(",") : data.selected.verdicts;
    Object.assign(state, { sort, part, text: asked.get("text") || "",
      down: (asked.get("sort") || "")[0] === "-",
      verdicts: boxes.map(box => box.value).filter(verdict => chosen.includes(verdict)) });
    return true;
  },
  show() {
    let n = 0;
    for (const box of boxes) box.checked = state.verdicts.includes(box.value);
    if (at("search").value !== state.text) at("search").value = state.text;
    for (const body of bodies) {
      const said = [...body.rows[0].cells].slice(0, 3).map(cell => cell.textContent).join(" ");
      body.hidden = !state.verdicts.includes(body.dataset.said)
        || state.part && body.dataset.part !== state.part
        || !said.toLowerCase().includes(state.text.toLowerCase());
      n += !body.hidden;
    }
    table.append(...data.orders[state.sort][+state.down].map(k => bodies[k]));
    for (const head of heads) head.setAttribute("aria-sort",
      head.dataset.sort !== state.sort ? "none" : state.down ? "descending" : "ascending");
    return { count: n + " of " + bodies.length + " claims" };
  },
});
// In Jupyter the chapters are notebooks. Copies take the links' places: Jupyter has made up its mind
// where the old ones lead.
if (document.body.dataset.jpThemeLight !== undefined)
  for (const link of all("a[data-page]")) {
    const notebook = link.cloneNode(true);
    notebook.setAttribute("href", link.dataset.page.replace(/html$/, "ipynb"));
    link.replaceWith(notebook);
  }
window.addEventListener("hashchange", open);
open();
