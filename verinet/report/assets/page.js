"use strict";
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    const number = text === "" || text === "–" ? NaN : Number(text);
    return { text, number, none: text === "" || text === "–" };
  };

  // Rows without a value stay at the end, whichever way the others go.
  const compare = (one, other, up) => {
    if (one.none !== other.none) return one.none ? 1 : -1;
    const both = !Number.isNaN(one.number) && !Number.isNaN(other.number);
    const order = both ? one.number - other.number : one.text.localeCompare(other.text, undefined, { numeric: true });
    return up ? order : -order;
  };

  const sort = (head) => {
    const table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [value(row, head.cellIndex), row]);
    rows.sort((one, other) => compare(one[0], other[0], up));
    body.append(...rows.map((pair) => pair[1]));
  };

  for (const head of document.querySelectorAll(".sortable th")) {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(head); }
    });
  }

  const search = document.querySelector("input[data-for=all]"), chips = [...document.querySelectorAll(".chip")];
  const texts = new Map();
  const textOf = (row) => {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  };
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.status);
    const rows = [...document.querySelector("#all").tBodies[0].rows];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => textOf(row).includes(word)) || (wanted.length > 0 && !wanted.includes(row.dataset.status));
      shown += row.hidden ? 0 : 1;
    }
    document.querySelector("output[data-count=all]").textContent = `${shown} of ${rows.length}`;
  };
  const clear = () => {
    search.value = "";
    for (const chip of chips) chip.setAttribute("aria-pressed", "false");
    filter();
  };
  if (search) search.addEventListener("input", filter);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }

  const go = (number) => {
    const row = document.getElementById(`i${number}`);
    if (!row) return;
    if (row.hidden) clear();
    for (const old of document.querySelectorAll("tr.lit")) old.classList.remove("lit");
    row.classList.add("lit");
    row.scrollIntoView({ block: "center" });
  };
  document.addEventListener("click", (event) => {
    const dot = event.target.closest("[data-row]"), link = event.target.closest("a[href^='#i']");
    const number = dot ? dot.dataset.row : link && link.getAttribute("href").slice(2);
    if (number && /^\d+$/.test(number)) { event.preventDefault(); go(number); }
  });

  const tip = document.getElementById("tip");
  document.addEventListener("pointerover", (event) => {
    const about = event.target.closest("[data-tip]");
    tip.hidden = !about;
    if (about) tip.textContent = about.dataset.tip;
  });
  document.addEventListener("pointermove", (event) => {
    if (tip.hidden) return;
    const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
    tip.style.left = `${right ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  });
})();
