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

  // The table of all instances may have very many rows. Browsers are slow with them, so only one page is in the document.
  const PAGE = 200, MANY = 2000, PATIENCE = 150;
  const table = document.getElementById("all");
  const all = table ? [...table.tBodies[0].rows] : [];
  let matching = all, first = 0;
  const pager = document.querySelector("[data-pages=all]");
  const render = () => {
    first = Math.max(0, Math.min(first, Math.floor((matching.length - 1) / PAGE) * PAGE));
    table.tBodies[0].replaceChildren(...matching.slice(first, first + PAGE));
    pager.hidden = matching.length <= PAGE;
    pager.querySelector("span").textContent = `rows ${first + 1} to ${Math.min(first + PAGE, matching.length)}`;
    pager.querySelector("[data-step='-1']").disabled = first === 0;
    pager.querySelector("[data-step='1']").disabled = first + PAGE >= matching.length;
  };
  const turn = (step) => {
    first += step * PAGE;
    render();
    table.closest(".scroll").scrollTop = 0;
  };

  const sort = (head) => {
    const mine = head.closest("table"), up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of mine.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (rows) => {
      const pairs = rows.map((row) => [value(row, head.cellIndex), row]);
      return pairs.sort((one, other) => compare(one[0], other[0], up)).map((pair) => pair[1]);
    };
    if (mine !== table) { mine.tBodies[0].append(...order([...mine.tBodies[0].rows])); return; }
    all.splice(0, all.length, ...order(all));
    filter();
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
    const wanted = new Set(chips.filter((chip) => chip.getAttribute("aria-pressed") === "true").map((chip) => chip.dataset.status));
    matching = all.filter((row) => (wanted.size === 0 || wanted.has(row.dataset.status)) && words.every((word) => textOf(row).includes(word)));
    first = 0;
    render();
    document.querySelector("output[data-count=all]").textContent = `${matching.length} of ${all.length}`;
  };
  let waiting = 0;
  const typed = () => {
    clearTimeout(waiting);
    if (all.length <= MANY) filter();
    else waiting = setTimeout(filter, PATIENCE);
  };
  const clear = () => {
    search.value = "";
    for (const chip of chips) chip.setAttribute("aria-pressed", "false");
    filter();
  };
  if (search) search.addEventListener("input", typed);
  if (table) {
    render();
    addEventListener("beforeprint", () => table.tBodies[0].replaceChildren(...matching));
    addEventListener("afterprint", render);
  }
  for (const button of pager ? pager.querySelectorAll("button") : []) {
    button.addEventListener("click", () => turn(Number(button.dataset.step)));
  }
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }

  const go = (number) => {
    const row = all.find((one) => one.id === `i${number}`);
    if (!row) return;
    if (!matching.includes(row)) clear();
    first = Math.floor(matching.indexOf(row) / PAGE) * PAGE;
    render();
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
