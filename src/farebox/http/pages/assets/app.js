// Enhancements where scripts run: copy buttons, interactive charts, keyboard shortcuts. Every page works without this.

const each = (selector, act) => document.querySelectorAll(selector).forEach(act);

// Adds a button to text that can be copied.
each("[data-copy]", (box) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(box.querySelector("pre").textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(box.querySelector("pre"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  box.append(button);
});

// A chart shows the value under the pointer; the arrow keys move along it.
each(".plot", (plot) => {
  const hits = [...plot.querySelectorAll(".hit")];
  if (!hits.length) return;
  const out = document.createElement("p");
  out.className = "readout";
  out.setAttribute("aria-live", "polite");
  plot.prepend(out);
  const texts = hits.map((hit) => {
    const title = hit.querySelector("title");
    const text = title.textContent;
    title.remove();  // otherwise the browser's tooltip would show it as well
    return text;
  });
  let at = -1;
  const show = (number) => {
    hits[at]?.classList.remove("at");
    at = number;
    hits[at]?.classList.add("at");
    out.textContent = texts[at] ?? "";
  };
  hits.forEach((hit, number) => hit.addEventListener("pointerenter", () => show(number)));
  plot.addEventListener("pointerleave", () => show(-1));
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", "Chart: use the arrow keys to read its bars");
  plot.addEventListener("blur", () => show(-1));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(hits.length - 1, Math.max(0, at + step)));
  });
});

// `g` and a letter open a page of the navigation; `/` focuses the first filter; `?` lists what there is.
const FILTER = ".filters input, .filters select";
const who = document.querySelector(".who");
const goals = new Map();
each("nav[aria-label=Pages] a", (link) => {
  const key = link.textContent.trim()[0].toLowerCase();
  if (!goals.has(key)) goals.set(key, link);
});
if (who) {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.innerHTML = "<kbd>?</kbd> lists the keyboard shortcuts";
  who.append(hint);
}

const list = document.createElement("dialog");
list.className = "keys";
list.setAttribute("aria-labelledby", "keys-title");
const shortcut = (does, ...keys) => {
  const line = document.createElement("div");
  line.append(document.createElement("dt"), document.createElement("dd"));
  line.firstChild.innerHTML = keys.map((key) => `<kbd>${key}</kbd>`).join(" ");
  line.lastChild.textContent = does;
  list.querySelector("dl").append(line);
};
const showShortcuts = () => {
  if (list.open) {
    list.close();
    return;
  }
  list.innerHTML = '<h2 id="keys-title">Keyboard shortcuts</h2><dl></dl><button type="button" class="quiet">Close</button>';
  list.querySelector("button").addEventListener("click", () => list.close());
  if (document.querySelector(FILTER)) shortcut("Filter this page", "/");
  if (document.querySelector(".plot")) shortcut("Read the bars of the chart that has the focus", "←", "→");
  for (const [key, link] of goals) shortcut(link.textContent.trim(), "g", key);
  shortcut("Close this list", "?");
  document.body.append(list);
  list.showModal();
};

let going = false;
addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (going) {
    going = false;
    goals.get(event.key)?.click();
  } else if (event.key === "g") {
    going = true;
    setTimeout(() => { going = false; }, 1500);
  } else if (event.key === "/") {
    const field = document.querySelector(FILTER);
    if (field) { event.preventDefault(); field.focus(); }
  } else if (event.key === "?" && who) {
    showShortcuts();
  }
});

// Scrolls a strip so that its current entry is visible.
document.querySelector("nav[aria-label=Pages] [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
