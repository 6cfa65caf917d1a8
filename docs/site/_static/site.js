// Interactive figures load Plotly and their data when somebody opens them.
let plotly;
const waiting = {};

function load(src) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = src;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${src} could not be loaded`));
    document.head.append(script);
  });
}

function showFigure(id, figure) {
  const layout = { ...figure.layout, width: undefined, autosize: true };
  Plotly.newPlot(waiting[id], figure.data, layout, { responsive: true, displaylogo: false });
}

document.addEventListener("toggle", async (event) => {
  const details = event.target;
  if (!details.matches("details.interactive") || !details.open || details.dataset.shown) return;
  details.dataset.shown = "yes";
  const place = details.querySelector("div");
  waiting[place.id] = place;
  plotly ??= load(new URL("../_static/plotly.min.js", document.baseURI).href);
  await plotly;
  await load(new URL(details.dataset.figure, document.baseURI).href);
}, true);

// What the theme leaves out for those who use a keyboard or a screen reader.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("pre").forEach((pre) => (pre.tabIndex = 0));
  const reachable = new ResizeObserver((boxes) => {  // what scrolls sideways, once it does
    boxes.forEach(({ target }) => (target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1));
  });
  document.querySelectorAll(".table-wrapper, div.math").forEach((box) => reachable.observe(box));
  document.querySelectorAll("p[role=heading]:not([aria-level])").forEach((p) => p.setAttribute("aria-level", "2"));
  document.querySelectorAll("td code > .pre").forEach((code) => {  // a long name would take all of a table's width
    if (code.textContent.length < 25) return;
    code.style.whiteSpace = "normal";
    code.innerHTML = code.innerHTML.replaceAll("_", "_<wbr>");
  });
  document.querySelectorAll("summary[aria-label]").forEach((summary) => summary.removeAttribute("aria-label"));
});

// The search page, opened by itself, is empty: the box is in the menu.
document.addEventListener("DOMContentLoaded", () => {
  const results = document.getElementById("search-results");
  if (results && !new URLSearchParams(location.search).get("q")) {
    results.innerHTML = "<h1>Search</h1><p>Type a word into the box in the menu, and press Enter.</p>";
  }
});
