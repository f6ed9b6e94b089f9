// Live updates: figures are replaced, and a list that has changed is fetched again. A button pauses this.

const place = document.querySelector("[data-live]");
const button = document.createElement("button");
let source = null;
let paused = false;
let seen = place.dataset.seen;
let latest = seen;
let waiting = false;

const show = (text) => {
  button.textContent = text;
  button.setAttribute("aria-pressed", String(text === "Live"));
};

const close = () => {
  source?.close();
  source = null;
};

const busy = (part) => part.contains(document.activeElement) || !getSelection().isCollapsed;

// The list is not replaced while its reader has the focus or a selection in it.
const refresh = async () => {
  const part = document.querySelector("[data-part] > section");
  if (!part || paused) return;
  waiting = busy(part);
  if (waiting) return;
  const wanted = latest;
  const response = await fetch(location.href, { headers: { "farebox-refresh": "1" } });
  if (!response.ok || response.redirected) return;
  const found = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = found.querySelector("[data-part] > section");
  if (!fresh || busy(part)) return;
  part.replaceWith(fresh);
  seen = wanted;
};

const change = ({ data }) => {
  if (seen !== undefined) {
    latest = data;
    if (data !== seen) refresh().catch(() => {}); // the next change, or the next connection, tries again
    return;
  }
  for (const [name, text] of Object.entries(JSON.parse(data))) {
    const figure = document.querySelector(`[data-figure="${name}"]`);
    if (figure) figure.textContent = text;
  }
};

const open = () => {
  if (source || paused || document.hidden) return;
  source = new EventSource(place.dataset.live);
  source.addEventListener("open", () => { button.hidden = false; });
  source.addEventListener("change", change);
  source.addEventListener("full", () => { close(); button.hidden = true; });
  source.addEventListener("error", () => { if (source?.readyState === EventSource.CLOSED) { close(); button.hidden = true; } });
};

button.type = "button";
button.className = "quiet small live";
button.hidden = true;
show("Live");
button.addEventListener("click", () => {
  paused = !paused;
  show(paused ? "Paused" : "Live");
  if (paused) close();
  else open();
});
place.append(button);
document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
addEventListener("pagehide", close);
addEventListener("pageshow", open);
document.addEventListener("focusout", () => { if (waiting) setTimeout(refresh); });
