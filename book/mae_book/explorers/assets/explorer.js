// The parts of every explorer's script, in one function with the explorer's own, which calls start.
// Jupyter runs scripts detached from their place, and the same explorer may stand on a page twice:
// the first that is not ready is this one.
const root = document.querySelector('[id="' + id + '"]:not([data-ready])');
if (!root) return;
const twins = document.querySelectorAll("." + kind + "-explorer[data-ready]").length;
const key = "#" + kind + (twins ? "-" + (twins + 1) : "");
root.dataset.ready = "";
const at = role => root.querySelector('[data-role="' + role + '"]');
const all = selector => [...root.querySelectorAll(selector)];
const count = (n, make) => Array.from({ length: n }, (_, k) => make(k));
const state = Object.assign({}, data.selected); // role → the value that is asked for
const roles = Object.keys(state), controls = roles.filter(role => at(role));
let own, writing = 0;

// What is offered for a role: [value, words, word in links] each.
const offers = (role, word) => (own.choices[role] || (() => data.choices[role]))(word);

// What is shown of a role: what is asked for or, where that is not offered, the nearest.
function choice(role) {
  const away = option => Math.abs(option[0] - state[role]), offered = offers(role);
  return offered.find(option => option[0] === state[role])
    || offered.reduce((best, option) => away(option) < away(best) ? option : best);
}
const now = role => choice(role)[0];
const words = () => roles.map((role, k) =>
  k ? choice(role)[2] : encodeURIComponent(choice(role)[2])).join(":");

function put(texts) {
  for (const role in texts) at(role).textContent = texts[role];
}

// Shows one of the panes alone.
function pane(k) {
  const panes = all("[data-pane]");
  panes.forEach((other, j) => { other.hidden = j !== k; });
  return panes[k];
}

function set(element, attributes) {
  for (const name in attributes) element.setAttribute(name, attributes[name]);
  return element;
}

function slide(role, most, value, text) {
  Object.assign(at(role), { max: most, value });
  at(role + "-words").textContent = text;
  at(role).setAttribute("aria-valuetext", text);
}

function show(note) {
  for (const role of controls) {
    const offered = offers(role), found = choice(role);
    const place = offered.findIndex(option => option[0] === found[0]);
    if (at(role).matches("select")) {
      if (!at(role).length) at(role).append(...offered.map(o => new Option(o[1])));
      at(role).selectedIndex = place;
    } else slide(role, offered.length - 1, place, found[1]);
    at(role).disabled = offered.length < 2;
  }
  const texts = Object.assign({ note: "" }, own.show(), note ? { note } : {});
  put(texts);
  at("note").hidden = !texts.note;
  const asked = own.mark + own.words();
  at("link").setAttribute("href", key + asked);
  at("code").textContent = 'explorer.widget("#' + kind + asked + '")';
}

function change(changes, note) {
  if (own.adapt) own.adapt(changes);
  Object.assign(state, changes);
  show(note);
  // A few times a second is enough: browsers refuse an address that changes all the time.
  if (!writing) writing = setTimeout(write, 200);
}

function write() {
  writing = 0;
  const address = at("link").getAttribute("href");
  try { history.replaceState(history.state, "", address); }
  catch (error) { /* a sandboxed page has no address of its own */ }
}

// Takes over what the words of a link ask for; false where some of it is not offered.
function read(text) {
  const before = Object.assign({}, state), asked = decodeURIComponent(text).split(":");
  const spare = asked.length - roles.length + 1;
  if (spare < 1) return false;
  asked.splice(0, spare, asked.slice(0, spare).join(":")); // the first may hold colons
  return roles.every((role, k) => {
    const found = offers(role, asked[k]).find(option => option[2] === asked[k]);
    if (found) state[role] = found[0];
    else Object.assign(state, before);
    return found;
  });
}

function follow() {
  clearTimeout(writing);
  writing = 0;
  if (!location.hash.startsWith(key + own.mark)) return false;
  let good = false;
  try { good = own.read(location.hash.slice(key.length + 1)); } catch (error) { /* no text */ }
  show(good ? "" : "The link asks for something that is not here.");
  root.scrollIntoView();
  return true;
}

// The step of an arrow key on a grid, [down, right]; undefined for other keys and for shortcuts.
function arrow(event) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (event.altKey || event.ctrlKey || event.metaKey || !steps[event.key]) return undefined;
  event.preventDefault();
  return steps[event.key];
}

// own: show, draws the state and gives role → text; choices, role → function that gives the offers
// of a role that depends on others; adapt, adds to some changes what else changes with them.
function start(given) {
  own = Object.assign({ mark: "=", words, read, choices: {} }, given);
  for (const role of controls) at(role).addEventListener("input", () => {
    const place = at(role).matches("select") ? at(role).selectedIndex : at(role).value;
    change({ [role]: offers(role)[place][0] });
  });
  at("controls").hidden = at("link").hidden = false;
  window.addEventListener("hashchange", follow);
  // What is above may still load and push this down: scrolled to once more when the page is whole.
  if (!follow()) show();
  else if (document.readyState !== "complete")
    window.addEventListener("load", () => root.scrollIntoView(), { once: true });
}
