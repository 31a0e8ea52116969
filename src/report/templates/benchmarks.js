(function () {
  "use strict";
  document.querySelectorAll(".browser").forEach(function (browser) {
    var items = Array.prototype.slice.call(browser.querySelectorAll(".item"));
    var buttons = Array.prototype.slice.call(browser.querySelectorAll("button[data-mark]"));
    var search = browser.querySelector("input");
    var shown = browser.querySelector("[data-shown]");
    function draw() {
      var wanted = buttons
        .filter(function (button) { return button.getAttribute("aria-pressed") === "true"; })
        .map(function (button) { return button.dataset.mark; });
      var text = search.value.trim().toLowerCase();
      var count = 0;
      items.forEach(function (item) {
        var marks = item.dataset.marks.split(" ");
        var fits = wanted.every(function (mark) { return marks.indexOf(mark) >= 0; });
        if (fits && text) { fits = item.textContent.toLowerCase().indexOf(text) >= 0; }
        item.hidden = !fits;
        if (fits) { count += 1; }
      });
      shown.textContent = count;
    }
    buttons.forEach(function (button) {
      button.addEventListener("click", function () {
        button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "true" ? "false" : "true");
        draw();
      });
    });
    search.addEventListener("input", draw);
  });
  document.addEventListener("play", function (event) {
    document.querySelectorAll("audio").forEach(function (other) { if (other !== event.target) { other.pause(); } });
  }, true);
})();
