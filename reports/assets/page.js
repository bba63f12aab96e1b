"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const templates = read("templates");
  const template = () => templates[dark.matches ? "dark" : "light"];
  const plots = [...document.querySelectorAll(".plot")];

  for (const plot of plots) {
    const figure = read(`data-${plot.id}`);
    const layout = { ...figure.layout, template: template() };
    Plotly.newPlot(plot, figure.data, layout, { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] });
  }
  const dress = (chosen) => plots.forEach((plot) => Plotly.relayout(plot, { template: chosen }));
  dark.addEventListener("change", () => dress(template()));
  window.addEventListener("beforeprint", () => dress(templates.light));
  window.addEventListener("afterprint", () => dress(template()));

  const STEP = 40;
  const { columns, rows } = read("trial-rows");
  const table = document.getElementById("trial-table");
  const state = { sort: null, ascending: true, shown: STEP };
  const filters = [...document.querySelectorAll(".filters select")];
  const search = document.getElementById("search");
  const more = document.getElementById("more");

  const matching = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = filters.filter((f) => f.value !== "").map((f) => [Number(f.dataset.column), f.value]);
    const found = rows.filter((row) =>
      wanted.every(([column, value]) => String(row[column] ?? "") === value) &&
      (words.length === 0 || (() => {
        const text = row.join(" ").toLowerCase();
        return words.every((word) => text.includes(word));
      })()));
    if (state.sort === null) return found;
    const sign = state.ascending ? 1 : -1;
    return found.sort((a, b) => {
      const [x, y] = [a[state.sort], b[state.sort]];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true }));
    });
  };

  const show = (value, column) => {
    if (value === null) return "\u2013";
    return column.digits === undefined ? String(value) : (value * (column.factor ?? 1)).toFixed(column.digits);
  };

  const draw = () => {
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
      draw();
    });
    cell.append(button);
    head.append(cell);
  });
  for (const filter of filters) {
    const values = [...new Set(rows.map((row) => row[filter.dataset.column]).filter((value) => value !== null))];
    values.sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true })));
    for (const value of values) filter.add(new Option(show(value, columns[filter.dataset.column]), String(value)));
    filter.addEventListener("change", () => { state.shown = STEP; draw(); });
  }
  search.addEventListener("input", () => { state.shown = STEP; draw(); });
  more.addEventListener("click", () => { state.shown += 10 * STEP; draw(); });
  draw();
})();
