"use strict";
const drawn = [];
const dark = matchMedia("(prefers-color-scheme: dark)");
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A figure's document with the colours of the scheme in the place of the names of variables.
function coloured(value) {
  if (typeof value === "string") return value.startsWith("--") ? css(value) : value;
  if (Array.isArray(value)) return value.map(coloured);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each)]));
}

// What all figures share.
function shared() {
  const axis = {
    gridcolor: "--line", linecolor: "--line", zeroline: false, automargin: true, fixedrange: true,
    title: {font: {size: 13}, standoff: 8},
  };
  return coloured({
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {color: "--ink", size: 12, family: getComputedStyle(document.body).fontFamily},
      margin: {l: 8, r: 12, t: 10, b: 8}, hovermode: "closest", dragmode: false,
      hoverlabel: {bgcolor: "--page", bordercolor: "--line", font: {color: "--ink"}, align: "left"},
      legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"},
      xaxis: axis, yaxis: axis, coloraxis: {colorbar: {thickness: 12, outlinewidth: 0}},
    },
  });
}

// Text as plotly shows it: some tags are markup to it, and it breaks no lines.
function plain(text) {
  const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return escaped.replace(/(.{1,60})(?: |$)/g, "$1<br>");
}

function draw(plot, figure) {
  const {data, layout} = coloured(figure);
  for (const trace of data) {
    if (trace.customdata) {
      trace.text = trace.customdata.map(id => plain(document.getElementById(id)?.dataset.said ?? ""));
      trace.hoverinfo = "text";
    }
  }
  Plotly.react(plot, data, {...layout, template: shared(), autosize: true},
               {displayModeBar: false, responsive: true});
}

// What a row of a table says, in a panel of its own.
let opener = null;
function show(id) {
  const row = document.getElementById(id);
  if (!row) return;
  const panel = document.getElementById("panel"), list = panel.querySelector("dl");
  document.querySelectorAll("tr.shown").forEach(each => each.classList.remove("shown"));
  row.classList.add("shown");
  panel.querySelector("h2").textContent = row.dataset.title;
  panel.querySelector("p").textContent = row.dataset.said;
  panel.querySelector("a").href = "#" + id;
  const heads = [...row.closest("table").tHead.rows[0].cells];
  list.replaceChildren(...[...row.cells].flatMap((cell, place) => {
    if (!place || !cell.textContent.trim()) return [];
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = heads[place].title || heads[place].textContent;
    said.textContent = cell.textContent;
    return [term, said];
  }));
  opener = document.activeElement;
  panel.close();
  panel.show();
}
function hide() {
  document.getElementById("panel").close();
  opener?.focus();
}

async function unpacked(element) {
  const bytes = Uint8Array.from(atob(element.textContent), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function begin() {
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-show]");
    if (button) show(button.dataset.show);
    if (event.target.closest("#close")) hide();
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  const packed = document.getElementById("plotly");
  if (packed) await drawAll(packed);
  document.documentElement.dataset.drawn = drawn.length;
}

async function drawAll(packed) {
  const script = document.createElement("script");
  script.textContent = await unpacked(packed);
  document.head.append(script);
  packed.remove();
  for (const source of document.querySelectorAll("script.figure")) {
    const plot = source.previousElementSibling, figure = JSON.parse(source.textContent);
    draw(plot, figure);
    plot.on("plotly_click", event => show(event.points[0].customdata));
    drawn.push([plot, figure]);
    await new Promise(requestAnimationFrame);
  }
  dark.addEventListener("change", () => drawn.forEach(([plot, figure]) => draw(plot, figure)));
}
begin();
