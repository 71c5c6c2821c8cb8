// Search, filters and the switch of themes. No network: the index is a script beside this one.
(function () {
  const root = document.documentElement;
  const $ = (selector, place = document) => place.querySelector(selector);

  $(".mi-theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("mi-theme", root.dataset.theme); } catch (error) { /* no memory */ }
  });

  // On a telephone a row's cells stand below each other: those of numbers say whose they are.
  for (const row of document.querySelectorAll(".mi-stack tbody tr")) {
    const heads = row.closest("table").querySelectorAll("thead th");
    [...row.cells].forEach((cell, at) => {
      if (at > 1 && heads[at]?.textContent.trim()) cell.dataset.head = heads[at].textContent.trim();
    });
  }

  const box = $(".mi-site input"), hits = $(".mi-hits");
  const words = text => text.toLowerCase().split(/\s+/).filter(Boolean);
  let loading = false;
  function load() {
    if (loading) return;
    loading = true;
    const script = document.createElement("script");
    script.src = "assets/search-index.js";
    script.onload = search;
    document.head.append(script);
  }
  function score(entry, wanted) {
    let total = entry.name.toLowerCase() === wanted.join(" ") ? 100 : 0;
    for (const word of wanted) {
      const inHead = entry.head.includes(word), count = entry.low.split(word).length - 1;
      if (!inHead && !count) return 0;
      const whole = (" " + entry.head.replace(/[^\p{L}\p{N}_]+/gu, " ") + " ").includes(` ${word} `);
      total += (inHead ? 20 : 0) + (whole ? 30 : 0) + Math.min(count, 5);
    }
    return total;
  }
  function excerpt(entry, wanted) {
    const at = Math.max(0, Math.min(...wanted.map(word => {
      const place = entry.low.indexOf(word);
      return place < 0 ? Infinity : place;
    }).concat(entry.text.length)) - 60);
    const start = at >= entry.text.length - 60 ? 0 : at;
    const cut = entry.text.slice(start, start + 180);
    const whole = cut.length < 180 ? cut : cut.slice(0, cut.lastIndexOf(" ")) + " …";
    return (start ? "… " : "") + whole;
  }
  function marked(text, wanted) {
    const node = document.createElement("small");
    const parts = wanted.map(word => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    for (const part of text.split(new RegExp(`(${parts.join("|")})`, "gi"))) {
      const hit = wanted.includes(part.toLowerCase());
      node.append(hit ? Object.assign(document.createElement("mark"), {textContent: part}) : part);
    }
    return node;
  }
  function search() {
    hits.replaceChildren();
    const wanted = words(box.value);
    if (!wanted.length || !window.miSearch) return;
    const found = window.miSearch
      .map(entry => [score(entry, wanted), entry]).filter(([points]) => points)
      .sort((a, b) => b[0] - a[0]);
    for (const [, entry] of found.slice(0, 30)) {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = entry.url;
      link.textContent = entry.title === entry.name ? entry.title : `${entry.title}: ${entry.name}`;
      item.append(link, marked(excerpt(entry, wanted), wanted));
      hits.append(item);
    }
    if (!found.length) hits.append(Object.assign(document.createElement("li"),
      {textContent: "Nothing here has all of these words."}));
  }
  window.miIndex = (titles, rows) => {
    window.miSearch = rows.map(([page, anchor, name, text]) => ({
      url: titles[page][0] + anchor, title: titles[page][1], name, text,
      head: (titles[page][1] + " " + name).toLowerCase(), low: text.toLowerCase(),
    }));
  };
  box.addEventListener("focus", load);
  box.addEventListener("input", () => { load(); search(); });
  box.addEventListener("keydown", event => {
    if (event.key === "Escape") { box.value = ""; search(); }
    if (event.key === "Enter") $("a", hits)?.click();
  });

  // The claims' filters; what is chosen stays in the address, so that it can be sent.
  const form = $(".mi-filters");
  function filter() {
    const chosen = [...form.querySelectorAll("select")].filter(select => select.value);
    const wanted = words($("input", form).value);
    const claims = new Set();
    let count = 0;
    for (const claim of document.querySelectorAll(".mi-claim")) {
      const text = claim.textContent.toLowerCase();
      const shown = chosen.every(select => claim.dataset[select.dataset.filter] === select.value)
        && wanted.every(word => text.includes(word));
      claim.hidden = !shown;
      count += shown;
      if (shown) claims.add(claim.dataset.claim);
    }
    $("output", form).textContent = `${claims.size} ${claims.size === 1 ? "claim" : "claims"}, `
      + `${count} ${count === 1 ? "entry" : "entries"}`;
  }
  form?.addEventListener("input", filter);
  form?.addEventListener("submit", event => event.preventDefault());

  // "#find=words" fills the page's own search box: how hits in tables are shown.
  function find() {
    const wanted = new URLSearchParams(location.hash.slice(1)).get("find");
    const own = $("main input[type=search]");
    if (!wanted || !own) return;
    own.value = wanted;
    own.dispatchEvent(new Event("input", {bubbles: true}));
    hits.replaceChildren();
  }
  window.addEventListener("hashchange", find);
  find();
})();
