// The page of the console. It shows what the console says and asks for what a person wants; it decides nothing.

const SHEETS = ["scene", "wrist"];  // of pictures, in the order of their first byte
const REPEAT_MS = 50;   // a held key is said again this often: silence means that the device is gone
const REST_MS = 1000;   // how long hands off is said after the last key
const RETRY_MS = 1000;
const byId = id => document.getElementById(id);
const body = document.body;

let socket = null;
let welcome = null;
let state = null;
let lastEpisode = "";
let nextId = 1;
const waiting = new Map();                       // commands without an answer yet: id -> {what, at}
const counts = {scene: 0, wrist: 0};             // pictures shown
window.consoleStats = {shown: counts, answers: [], log: []};

// --- the connection --------------------------------------------------------------------------------------------------

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);  // not for the next one who looks at the screen
  }
  return sessionStorage.getItem("token") ?? "";
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => say({type: "hello", token: token()});
  socket.onmessage = event => typeof event.data === "string" ? hear(JSON.parse(event.data)) : picture(event.data);
  socket.onclose = event => {
    lost();
    if (event.code === 4401) askForToken();
    else setTimeout(connect, RETRY_MS);
  };
}

function say(message) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

function lost() {
  state = null;
  release();
  switchKeys(false);
  for (const {what} of waiting.values()) toast(`${what}: the connection was lost before the answer`, true);
  waiting.clear();
  body.dataset.link = "down";
  byId("link").textContent = "no connection";
}

function askForToken() {
  const dialog = byId("ask");
  byId("token").value = "";
  dialog.onclose = () => {
    sessionStorage.setItem("token", byId("token").value);
    connect();
  };
  if (!dialog.open) dialog.showModal();
}

function hear(message) {
  if (message.type === "welcome") greet(message);
  else if (message.type === "answer") answered(message);
  else {
    if (message.type === "state") show(message.value);
    else if (message.type === "events") showEvents(message.value);
    say({type: "shown", sheet: message.type, number: message.number});
  }
}

async function picture(data) {
  const head = new DataView(data);
  const sheet = SHEETS[head.getUint8(0)], number = head.getUint32(1);
  try {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 5)], {type: "image/jpeg"}));
    requestAnimationFrame(() => {
      const canvas = byId(sheet);
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
      }
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      counts[sheet] += 1;
      say({type: "shown", sheet, number});
    });
  } catch {
    say({type: "shown", sheet, number});  // not a picture: the next one may be
  }
}

// --- what the cell says ----------------------------------------------------------------------------------------------

function greet(message) {
  welcome = message;
  document.title = `${message.task} – RLDG console`;
  byId("task").textContent = message.task.replaceAll("_", " ");
  byId("instruction").textContent = message.instruction;
  byId("scenes").replaceChildren(...message.scenes.map(name => new Option(name)));
  byId("scene_label").hidden = message.scenes.length < 2;
  byId("drive").disabled = message.lockstep;
  for (const button of document.querySelectorAll('[data-motion="open"], [data-motion="close"]')) button.disabled = !message.grasps;
}

const WHO = {
  policy: view => view.policy_id,
  human: () => "a person drives",
  reset: () => "reset motion",
  hold: view => view.estop ? "stopped" : "the arm holds",
};

function show(view) {
  state = view;
  const silent = view.silent_s === null || view.silent_s > 1;
  body.dataset.link = silent ? "quiet" : "up";
  body.dataset.source = silent ? "hold" : view.source;
  body.toggleAttribute("data-stopped", Boolean(view.estop));
  text("link", view.silent_s === null ? "waiting for the cell" : silent ? `cell silent for ${view.silent_s.toFixed(0)} s` : "live");
  text("source", silent ? "silent" : view.source);
  text("who", WHO[view.source](view));
  text("reason", view.estop ? "" : view.reason);
  chips(byId("changed"), view.changed.map(name => name.replaceAll("_", " ")));
  byId("latched").hidden = !view.estop;
  text("cause", view.estop);

  text("phase", view.phase);
  byId("phase").dataset.phase = view.phase;
  text("episode", episode(view));
  gauge("time", view.time_s, view.limit_s, `${view.time_s.toFixed(1)} of ${view.limit_s.toFixed(0)} s`, [1.1, 1.2]);
  gauge("force", view.force_n, welcome.force_limit_n, `${view.force_n.toFixed(1)} of ${welcome.force_limit_n.toFixed(0)} N`, [.6, .9]);
  text("tcp", view.tcp_mm.length ? view.tcp_mm.map(mm => mm.toFixed(0)).join(" · ") + " mm" : "–");
  text("gripper", `${view.gripper_mm.toFixed(0)} mm, ${view.gripper_closed ? "closed" : "open"}`);
  text("intervened", `${Math.round(100 * view.intervened)} %`);

  const idle = view.phase === "idle", running = view.phase === "running";
  byId("start").disabled = !idle || silent;
  byId("stop").disabled = idle;
  byId("reset").disabled = !running;
  if (view.episode_id && view.episode_id !== lastEpisode) byId("seed").value = view.seed + 1;
  lastEpisode = view.episode_id || lastEpisode;
  const others = view.keys !== null && !holding;
  text("keys_note", welcome.lockstep ? "In lockstep the simulation does not wait for hands." : others ? "Somebody else holds the keys."
    : view.reason.startsWith("operator device") ? "The keys fell silent while one was held: press one and let go of it."
    : "Switched on, held keys move the arm; let go, and it has its policy back after 0.4 s.");
  policies(view);
  success(view.success);
  troubles(view.troubles);
}

function episode(view) {
  if (!view.episode_id) return "none yet";
  const parts = [view.episode_id.split("/").pop(), view.scene, `seed ${view.seed}`];
  if (view.outcome !== "none") parts.push(view.outcome_reason ? `${view.outcome}: ${view.outcome_reason}` : view.outcome);
  return parts.join(" · ");
}

function policies(view) {
  const rows = view.policies.map(policy => {
    const row = document.createElement("tr");
    row.classList.toggle("old", policy.age_s > 1);
    const name = cell(policy.policy_id);
    const about = [policy.name !== policy.policy_id ? policy.name : "", policy.checkpoint].filter(Boolean).join(" · ");
    if (about) name.append(element("small", about));
    const last = cell("");
    last.append(policy.selected ? element("span", "in authority", "drives") : swapButton(policy.policy_id, "let drive"));
    row.append(name, cell(seconds(policy.age_s)), cell(seconds(policy.latency_s)), last);
    return row;
  });
  if (view.policy_id) {
    const row = document.createElement("tr"), last = cell("");
    last.append(swapButton("", "let nobody drive"));
    row.append(cell("none"), cell(""), cell(""), last);
    rows.push(row);
  }
  if (!rows.length) {
    const row = document.createElement("tr"), only = cell("no policy answers");
    only.colSpan = 4;
    only.className = "muted";
    row.append(only);
    rows.push(row);
  }
  // a button under the pointer stays the same one
  const table = byId("policies"), shape = rows.map(row => row.textContent.replace(/[\d.]+ m?s/g, "")).join("\n");
  if (table.dataset.shape !== shape) {
    table.dataset.shape = shape;
    table.replaceChildren(...rows);
    return;
  }
  rows.forEach((row, i) => {
    const old = table.rows[i];
    old.className = row.className;
    for (const j of [1, 2]) if (old.cells[j]) old.cells[j].textContent = row.cells[j].textContent;
  });
}

function swapButton(policy_id, label) {
  const button = element("button", label);
  button.type = "button";
  button.onclick = () => ask({type: "swap", policy_id}, policy_id ? `swap to ${policy_id}` : "nobody drives");
  return button;
}

function success(value) {
  const rate = value.trials ? value.successes / value.trials : 0;
  text("score", value.trials ? `${Math.round(100 * rate)} %` : "–");
  const percent = share => `${Math.round(100 * share)}`;
  text("score_text", value.trials
    ? `${value.successes} of ${value.trials}; true rate ${percent(value.low)}–${percent(value.high)} % (95 %)` +
      (value.aborted ? `; ${value.aborted} aborted` : "")
    : value.aborted ? `${value.aborted} aborted` : "no episode has ended yet");
  byId("band").style.left = `${100 * value.low}%`;
  byId("band").style.width = `${100 * (value.high - value.low)}%`;
  byId("band").hidden = byId("rate").hidden = !value.trials;
  byId("rate").style.left = `${100 * rate}%`;
  const dots = byId("recent"), outcomes = value.recent.join(" ");
  if (dots.dataset.outcomes !== outcomes) {
    dots.dataset.outcomes = outcomes;
    dots.replaceChildren(...value.recent.map(outcome => {
      const dot = element("i", "", outcome);
      dot.title = outcome;
      return dot;
    }));
  }
}

function troubles(all) {
  const list = all.filter(({name}) => name !== "arbiter: arm");  // that is the reason beside who drives
  byId("troubles").hidden = !list.length;
  chips(byId("troubles"), list.slice(0, 4).map(({name, text}) => `${name}: ${text}`), "span");
}

function showEvents(entries) {
  window.consoleStats.log.push(...entries.slice(-3).map(entry => ({at: performance.now(), text: entry.text})));
  window.consoleStats.log.splice(0, window.consoleStats.log.length - 50);
  byId("events").replaceChildren(...entries.toReversed().map(entry => {
    const line = element("li", "", entry.level), when = element("time", clock(entry.stamp_s));
    line.append(when, element("span", entry.text));
    return line;
  }));
}

// --- what a person asks for ------------------------------------------------------------------------------------------

function ask(message, what) {
  const id = nextId++;
  if (!say({...message, id})) return toast(`${what}: there is no connection`, true);
  waiting.set(id, {what, at: performance.now()});
}

function answered({id, done, message}) {
  const asked = waiting.get(id);
  waiting.delete(id);
  if (!asked) return;
  const ms = performance.now() - asked.at;
  window.consoleStats.answers.push({what: asked.what, done, message, ms});
  window.consoleStats.answers.splice(0, window.consoleStats.answers.length - 50);
  toast(done ? `${asked.what}: done in ${ms.toFixed(0)} ms` : `${asked.what}: ${message}`, !done);
}

const label = name => ask({type: "label", label: name}, name);
const stop = () => ask({type: "estop", latched: true}, "e-stop");
const abandon = () => { if (state?.phase === "running") ask({type: "label", label: "aborted"}, "reset"); };

byId("estop").onclick = stop;
byId("start").onclick = () => {
  for (const field of [byId("count"), byId("seed")]) if (!field.reportValidity()) return;
  const [count, seed, scene] = [Number(byId("count").value), Number(byId("seed").value), byId("scenes").value];
  ask({type: "start", count, seed, scene}, count === 1 ? "start an episode" : `start ${count} episodes`);
};
byId("run").onsubmit = event => { event.preventDefault(); byId("start").click(); };
byId("stop").onclick = () => ask({type: "stop"}, "stop the episodes");
byId("reset").onclick = abandon;
for (const button of document.querySelectorAll("[data-label]")) button.onclick = () => label(button.dataset.label);

let sure = 0;  // releasing the e-stop takes two clicks
byId("release").onclick = () => {
  clearTimeout(sure);
  if (byId("release").dataset.sure) {
    ask({type: "estop", latched: false}, "release the e-stop");
    delete byId("release").dataset.sure;
    text("release", "Release …");
    return;
  }
  byId("release").dataset.sure = "1";
  text("release", "The cell is clear: release");
  sure = setTimeout(() => { delete byId("release").dataset.sure; text("release", "Release …"); }, 3000);
};

// --- the keys --------------------------------------------------------------------------------------------------------

const motionOf = new Map([...document.querySelectorAll("[data-motion]")].map(button => [button.dataset.key, button]));
const held = new Map();     // what holds it (a key or a pointer) -> button
const LABEL_KEYS = {KeyY: "success", KeyN: "failure", KeyU: "undo"};
let driving = false, slow = false, holding = false, restUntil = 0;

function report() {
  const buttons = [...new Set(held.values())];
  const motions = driving ? buttons.map(button => button.dataset.motion) : [];
  holding = motions.length > 0;
  if (holding) restUntil = performance.now() + REST_MS;
  else if (performance.now() > restUntil) return;
  say({type: "keys", motions, speed: byId("speed").value / 100 * (slow ? .25 : 1)});
}
setInterval(report, REPEAT_MS);

function hold(what, button) {
  if (!driving || button.disabled || held.has(what)) return;
  held.set(what, button);
  button.classList.add("held");
  report();
}

function letGo(what) {
  const button = held.get(what);
  if (!button) return;
  held.delete(what);
  button.classList.toggle("held", [...held.values()].includes(button));
  report();
}

function release() {
  for (const what of [...held.keys()]) letGo(what);
}

function switchKeys(on) {
  on &&= !welcome?.lockstep;
  if (!on) release();
  driving = on;
  byId("drive").checked = on;
  byId("drive").nextElementSibling.textContent = on ? "on" : "off";
  document.querySelector(".keys").classList.toggle("on", on);
}

byId("drive").onchange = () => switchKeys(byId("drive").checked);
byId("speed").oninput = () => text("speed_text", `${byId("speed").value} %`);

for (const button of motionOf.values()) {
  button.onpointerdown = event => {
    button.setPointerCapture(event.pointerId);
    if (!driving) toast("switch “Drive by keys” on first", true);
    hold(event.pointerId, button);
  };
  button.onpointerup = button.onpointercancel = button.onlostpointercapture = event => letGo(event.pointerId);
  button.oncontextmenu = event => event.preventDefault();
}

addEventListener("keydown", event => {
  slow = event.shiftKey;
  if (byId("ask").open) return;
  if (event.code === "Space") {  // wherever the focus is
    event.preventDefault();
    if (!event.repeat) stop();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=number], select")) return;
  const button = driving && motionOf.get(event.code);
  if (button) {
    event.preventDefault();
    hold(event.code, button);
  } else if (event.repeat) {
    return;
  } else if (LABEL_KEYS[event.code]) {
    label(LABEL_KEYS[event.code]);
  } else if (event.code === "Backspace") {
    abandon();
  } else if (event.code === "KeyK") {
    switchKeys(!driving);
  }
}, true);
addEventListener("keyup", event => {
  slow = event.shiftKey;
  if (event.code === "Space") event.preventDefault();  // not a click on the button that has the focus
  letGo(event.code);
}, true);
addEventListener("blur", release);
addEventListener("pagehide", release);
document.addEventListener("visibilitychange", () => { if (document.hidden) release(); });

// --- small things ----------------------------------------------------------------------------------------------------

function text(id, value) {
  const node = byId(id);
  if (node.textContent !== value) node.textContent = value;
}

function element(kind, value, name = "") {
  const node = document.createElement(kind);
  node.textContent = value;
  if (name) node.className = name;
  return node;
}

const cell = value => element("td", value);
const seconds = value => value < 1 ? `${Math.max(0, value * 1000).toFixed(0)} ms` : `${value.toFixed(1)} s`;

function chips(node, words, kind = "i") {
  const joined = words.join("\n");
  if (node.dataset.words === joined) return;
  node.dataset.words = joined;
  node.replaceChildren(...words.map(word => element(kind, word)));
}

function gauge(id, value, limit, words, [high, veryHigh]) {
  const meter = byId(id);
  Object.assign(meter, {max: limit, low: limit * high, high: limit * veryHigh, optimum: 0, value});
  text(`${id}_text`, words);
}

function clock(stamp_s) {  // simulated time begins near zero
  return stamp_s > 1e9 ? new Date(stamp_s * 1000).toLocaleTimeString([], {hour12: false}) : `${stamp_s.toFixed(1)} s`;
}

let toasted = 0;
function toast(words, bad = false) {
  const node = byId("toast");
  node.textContent = words;
  node.classList.toggle("bad", bad);
  node.hidden = false;
  clearTimeout(toasted);
  toasted = setTimeout(() => { node.hidden = true; }, bad ? 5000 : 1800);
}

const before = {...counts};
setInterval(() => {
  for (const sheet of SHEETS) {
    text(`${sheet}_hz`, counts[sheet] - before[sheet] ? `${counts[sheet] - before[sheet]}/s` : "no picture");
    before[sheet] = counts[sheet];
  }
}, 1000);

switchKeys(false);
connect();
