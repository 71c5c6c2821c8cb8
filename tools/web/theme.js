// Before anything is painted: the reader's last choice, else the system's.
(function () {
  let theme = null;
  try { theme = localStorage.getItem("mi-theme"); } catch (error) { /* not allowed: no memory */ }
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = theme || (dark ? "dark" : "light");
})();
