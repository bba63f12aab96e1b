"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const natural = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  const page = document.documentElement;

  // What the reader chose is kept over a reload; a browser may forbid that for local files.
  const kept = `labelscale ${location.pathname}`;
  const recall = () => { try { return JSON.parse(sessionStorage.getItem(kept)) ?? {}; } catch { return {}; } };
  const keep = (changes) => { try { sessionStorage.setItem(kept, JSON.stringify({ ...recall(), ...changes })); } catch { /* not kept */ } };

  // ---- filters: one bar for the points of the figures and the rows of the table
  const DIMENSIONS = ["architecture", "label_fraction", "stage"]; // the order in every point's customdata
  const { columns, rows, names } = read("trial-rows");
  const selects = Object.fromEntries(DIMENSIONS.map((name) => [name, document.getElementById(`filter-${name}`)]));
  const search = document.getElementById("search");
  const wanted = () => DIMENSIONS.map((name) => selects[name].value);

  const fill = (name) => {
    const column = names.indexOf(name);
    if (column < 0) return;
    const values = [...new Set(rows.map((row) => row[column]).filter((value) => value !== null))].sort(natural);
    for (const value of values) {
      const share = name === "label_fraction";
      selects[name].add(new Option(share ? `${value}\u00a0%` : value, share ? value / 100 : value));
    }
  };
  const ROUNDED = 1e-8; // a choice is made of a percent of six decimals, so it is up to half of this off its fraction
  const same = (value, choice) =>
    typeof value === "number" ? Math.abs(value - Number(choice)) < ROUNDED : String(value) === choice;

  // ---- figures
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const templates = read("templates");
  const template = () => templates[dark.matches ? "dark" : "light"];
  const plots = all(".plot");
  const figures = new Map();

  // A point that is not of one architecture, label fraction or stage (null there) stays.
  const pointFits = (point, choices) =>
    choices.every((choice, i) => choice === "" || (point[i] ?? null) === null || same(point[i], choice));
  const filterFigure = (plot, choices) => {
    const changed = [];
    const indexes = [];
    figures.get(plot).data.forEach((trace, i) => {
      if (!Array.isArray(trace.customdata) || trace.customdata.length !== trace.y.length) return;
      changed.push(trace.y.map((value, j) => (pointFits(trace.customdata[j], choices) ? value : null)));
      indexes.push(i);
    });
    if (indexes.length) Plotly.restyle(plot, { y: changed }, indexes);
  };
  const dress = (chosen) => figures.forEach((_, plot) => Plotly.relayout(plot, { template: chosen }));

  const draw = async () => {
    const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
    for (const plot of plots) {
      const figure = read(`data-${plot.id}`);
      const layout = { ...figure.layout, template: template() };
      await Plotly.newPlot(plot, structuredClone(figure.data), layout, config);
      figures.set(plot, figure);
      await new Promise((resolve) => setTimeout(resolve)); // the page stays usable while its figures appear
    }
    if (wanted().some(Boolean)) figures.forEach((_, plot) => filterFigure(plot, wanted()));
    dark.addEventListener("change", () => dress(template()));
    page.dataset.drawn = String(Math.round(performance.now()));
  };

  // ---- printing: light figures as wide as the paper, everything unfolded
  const PAPER = 700; // px between the margins of A4
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((part) => { part.open = true; });
    figures.forEach((_, plot) => Plotly.relayout(plot, { template: templates.light, width: PAPER }));
  });
  window.addEventListener("afterprint", () => {
    folded.forEach((part) => { part.open = false; });
    figures.forEach((_, plot) => Plotly.relayout(plot, { template: template(), width: null, autosize: true }));
  });

  // ---- the table of all trials
  const STEP = 40;
  const table = document.getElementById("trial-table");
  const more = document.getElementById("more");
  const state = { sort: null, ascending: true, shown: STEP };

  const rowFits = (row, choices, words) =>
    choices.every((choice, i) => {
      const value = row[names.indexOf(DIMENSIONS[i])] ?? null;
      return choice === "" || (value !== null && same(DIMENSIONS[i] === "label_fraction" ? value / 100 : value, choice));
    }) && (words.length === 0 || (() => {
      const text = row.join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    })());
  const matching = () => {
    const [choices, words] = [wanted(), search.value.toLowerCase().split(/\s+/).filter(Boolean)];
    const found = rows.filter((row) => rowFits(row, choices, words));
    if (state.sort === null) return found;
    const sign = state.ascending ? 1 : -1;
    return found.sort((a, b) => {
      const [x, y] = [a[state.sort], b[state.sort]];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * natural(x, y);
    });
  };
  const show = (value, column) => {
    if (value === null) return "\u2013";
    if (column.digits !== undefined) return value.toFixed(column.digits);
    return column.number && Math.abs(value) >= 10000 ? value.toLocaleString("en") : String(value);
  };
  const drawTable = () => {
    const found = matching();
    const body = document.createElement("tbody");
    for (const row of found.slice(0, state.shown)) {
      const line = body.insertRow();
      columns.forEach((column, i) => {
        const cell = line.insertCell();
        cell.textContent = show(row[i], column);
        if (column.number) cell.className = "number";
      });
    }
    table.tBodies[0].replaceWith(body);
    const shown = Math.min(state.shown, found.length);
    document.getElementById("shown").textContent = `${shown} of ${found.length} matching trials shown, ${rows.length} in all`;
    document.getElementById("matching").textContent = `${found.length} of ${rows.length} trials`;
    more.hidden = shown === found.length;
    [...table.tHead.rows[0].cells].forEach((cell, i) => {
      if (i === state.sort) cell.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  };
  const head = table.tHead.insertRow();
  columns.forEach((column, i) => {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    cell.scope = "col";
    if (column.number) cell.className = "number";
    button.textContent = column.name;
    button.addEventListener("click", () => {
      state.ascending = state.sort === i ? !state.ascending : true;
      state.sort = i;
      drawTable();
    });
    cell.append(button);
    head.append(cell);
  });

  const changed = () => {
    state.shown = STEP;
    keep({ filters: wanted(), search: search.value });
    drawTable();
    figures.forEach((_, plot) => filterFigure(plot, wanted()));
  };
  DIMENSIONS.forEach(fill);
  const before = recall();
  DIMENSIONS.forEach((name, i) => {
    const choice = before.filters?.[i] ?? "";
    if ([...selects[name].options].some((option) => option.value === choice)) selects[name].value = choice;
    selects[name].addEventListener("change", changed);
  });
  search.value = before.search ?? "";
  search.addEventListener("input", () => { state.shown = STEP; keep({ search: search.value }); drawTable(); });
  more.addEventListener("click", () => { state.shown += 10 * STEP; drawTable(); });
  document.getElementById("clear").addEventListener("click", () => {
    for (const name of DIMENSIONS) selects[name].value = "";
    search.value = "";
    changed();
  });

  // ---- an unfinished study: read again what was written meanwhile, unless the reader does not want that
  const reload = document.getElementById("reload");
  if (reload) {
    reload.checked = before.reload ?? true;
    reload.addEventListener("change", () => keep({ reload: reload.checked }));
    setInterval(() => { if (reload.checked && !document.hidden) location.reload(); }, 1000 * Number(reload.dataset.seconds));
  }

  drawTable();
  draw();
})();
