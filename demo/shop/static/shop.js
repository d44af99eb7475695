// The same on every page: mark the page we are on, keep quantities sensible.
(function () {
  "use strict";
  const home = "https://example.com/";
  for (const link of document.querySelectorAll(".bar nav a")) {
    if (link.href === location.href && link.href !== home) link.setAttribute("aria-current", "page");
  }
  for (const input of document.querySelectorAll("input[type=number]")) {
    input.addEventListener("change", () => {
      const value = Math.round(Number(input.value)) || 0;
      input.value = Math.min(Number(input.max), Math.max(Number(input.min), value));
    });
  }
})();
